/* Written by netpress: classifies images and says what that takes. Replace it by your own program.

   Its command line, as semihosting gives it: the program's name; perhaps the word icount, where QEMU counts
   instructions; perhaps a file of raw pixels, one image after the other. Without a file it draws an image.
   On standard output a line of logits for each image, as netpress gives them; what people read is on standard error. */
#include "board.h"
#include "{{ name }}.h"

static int32_t arena[({{ upper }}_ARENA_BYTES + 3) / 4];
static int32_t logits[{{ upper }}_CLASSES];
static uint8_t pixels[{{ upper }}_HEIGHT * {{ upper }}_WIDTH * {{ upper }}_CHANNELS];
static char line[256];
static int output, errors;

static void say(const char *text) { host_say(errors, text); }

static void write_number(int file, uint32_t number, int negative) {
    char text[12], *at = text + sizeof text;
    do *--at = (char)('0' + number % 10);
    while (number /= 10);
    if (negative) *--at = '-';
    host_write(file, at, (size_t)(text + sizeof text - at));
}

static void write_signed(int file, int32_t number) {
    write_number(file, number < 0 ? 0u - (uint32_t)number : (uint32_t)number, number < 0);
}

/* The image that is drawn where none is given; netpress draws the same. */
static void draw(void) {
    uint32_t value = 1;
    size_t place;
    for (place = 0; place < sizeof pixels; place++) {
        value = value * 1664525u + 1013904223u;
        pixels[place] = (uint8_t)((place >> 2) + (value >> 26));
    }
}

/* The file that the command line names, 0 where it names none. */
static const char *read_command(int *counted) {
    static const char word[] = "icount";
    char *at = line;
    size_t same = 0;
    *counted = 0;
    if (host_command(line, sizeof line) != 0) return 0;
    while (*at && *at != ' ') at++;
    while (*at == ' ') at++;
    while (word[same] && at[same] == word[same]) same++;
    if (!word[same] && (at[same] == ' ' || !at[same])) {
        *counted = 1;
        for (at += same; *at == ' ';) at++;
    }
    return *at ? at : 0;
}

/* Under -icount shift=0 an instruction takes 1 ns of QEMU's clock; SysTick runs at {{ board.megahertz }} MHz. */
static uint32_t instructions(uint32_t taken) {
    const uint32_t clock = {{ (10 * board.megahertz) | int }}; /* MHz / 10 */
    return taken / clock * 10000 + taken % clock * 10000 / clock;
}

static int classify(int counted) {
    const uint32_t start = ticks();
    const int failed = {{ name }}_run(arena, pixels, logits);
    const uint32_t taken = ticks() - start;
    int place, best = 0;
    if (failed) return 1;
    for (place = 0; place < {{ upper }}_CLASSES; place++) {
        if (place) host_write(output, " ", 1);
        write_signed(output, logits[place]);
        if (logits[place] > logits[best]) best = place;
    }
    host_write(output, "\n", 1);
    say("answer       ");
    say({{ name }}_class_names[best]);
    say(", logit ");
    write_signed(errors, logits[best]);
    say(counted ? "\ninstructions " : "\ncycles       ");
    write_number(errors, counted ? instructions(taken) : taken, 0);
    say(counted ? " an image, counted by QEMU: no measure of time\n" : " an image\n");
    return 0;
}

int main(void) {
    int counted, file = -1;
    const char *name = read_command(&counted);
    size_t count = sizeof pixels;
    output = host_open(":tt", HOST_OUTPUT);
    errors = host_open(":tt", HOST_ERRORS);
    if (name && (file = host_open(name, HOST_INPUT)) < 0) {
        say(name);
        say(": cannot be opened; give a file of raw pixels, and run in its folder\n");
        return 1;
    }
    stack_paint();
    ticks_start();
    if (!name) draw();
    while (!name || (count = host_read(file, pixels, sizeof pixels)) == sizeof pixels) {
        if (classify(counted)) return 1;
        if (!name) break;
    }
    say("stack        ");
    write_number(errors, stack_used(), 0);
    say(" of {{ stack }} bytes\n");
    if (count && count != sizeof pixels) {
        say("the last image is cut off\n");
        return 1;
    }
    return 0;
}
