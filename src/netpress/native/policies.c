/* Augmentation policies: every image of a batch goes through its drawn steps while it lies in the cache.

   The torch twin is run_steps in data/operations.py, which equals Pillow bit for bit; so does this. It therefore
   rounds after every product (-ffp-contract=off) and divides where Pillow divides. Planes are uint8, one after the
   other: an image is [channels, height, width] with 1 or 3 channels. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum { FINISHED, NO_MEMORY, WRONG_ENTRY };

/* What is done to an image: the numbers of Work in policies.py. */
enum { MOVE, LOOK_UP, CONTRAST, STRETCH, EQUALIZE, COLOUR, SHARPEN, FILL };

/* The prepared steps, as `_Table` in policies.py. */
typedef struct {
    int64_t count;
    const int64_t *works;         /* [count] */
    const int64_t *rows;          /* [count], of coefficients for MOVE, of tables for LOOK_UP */
    const float *factors;         /* [count], of CONTRAST, COLOUR and SHARPEN */
    const double *sides;          /* [count], pixels, of FILL */
    const int32_t *coefficients;  /* [moves, 6], 16.16 */
    const uint8_t *tables;        /* [look-ups, 256] */
} Steps;

typedef struct {
    int64_t channels, height, width;
} Shape;

/* Memory of one thread. */
typedef struct {
    uint8_t *image;   /* [channels, pixels + 1]: a copy */
    int32_t *places;  /* [width] */
} Scratch;

static inline uint8_t clipped(float value) {
    const int32_t whole = (int32_t)value;
    return (uint8_t)(whole < 0 ? 0 : whole > 255 ? 255 : whole);
}

static inline uint8_t blended(float value, float other, float factor) {
    return clipped((value - other) * factor + other);
}

/* (a x + b y + c) >> 16, where sums wrap around as int32 tensors do. */
static inline int32_t source(const int32_t *c, int32_t x, int32_t y) {
    return (int32_t)((uint32_t)c[0] * (uint32_t)x + (uint32_t)c[1] * (uint32_t)y + (uint32_t)c[2]) >> 16;
}

/* Every row moves as a whole: shears along x, and shifts. */
static inline void move_rows(uint8_t *image, Shape shape, const int32_t *c) {
    const int64_t height = shape.height, width = shape.width, down = c[5] >> 16;
    const int64_t kept = llabs(down) < height ? height - llabs(down) : 0;
    for (int64_t channel = 0; channel < shape.channels; channel++) {
        uint8_t *plane = image + channel * height * width;
        if (down > 0) {
            memmove(plane, plane + (height - kept) * width, (size_t)(kept * width));
            memset(plane + kept * width, 0, (size_t)((height - kept) * width));
        } else if (down < 0) {
            memmove(plane + (height - kept) * width, plane, (size_t)(kept * width));
            memset(plane, 0, (size_t)((height - kept) * width));
        }
        for (int64_t y = 0; y < height; y++) {
            uint8_t *row = plane + y * width;
            const int64_t right = source(c, 0, (int32_t)y);
            const int64_t lost = llabs(right) < width ? llabs(right) : width;
            if (right > 0) {
                memmove(row, row + lost, (size_t)(width - lost));
                memset(row + width - lost, 0, (size_t)lost);
            } else if (right < 0) {
                memmove(row + lost, row, (size_t)(width - lost));
                memset(row, 0, (size_t)lost);
            }
        }
    }
}

/* Every pixel from its place, black where that lies outside. */
static inline void move(uint8_t *image, Shape shape, const int32_t *c, Scratch scratch) {
    const int32_t height = (int32_t)shape.height, width = (int32_t)shape.width;
    const int32_t pixels = height * width;
    if (c[0] == 1 << 16 && c[3] == 0 && c[4] == 1 << 16 && height < 1 << 15 && width < 1 << 15) {
        move_rows(image, shape, c);
        return;
    }
    for (int64_t channel = 0; channel < shape.channels; channel++) {
        uint8_t *copy = scratch.image + channel * (pixels + 1);
        memcpy(copy, image + channel * pixels, (size_t)pixels);
        copy[pixels] = 0; /* what lies outside */
    }
    for (int32_t y = 0; y < height; y++) {
        int32_t *restrict places = scratch.places;
        for (int32_t x = 0; x < width; x++) {
            const int32_t column = source(c, x, y), row = source(c + 3, x, y);
            /* Negative numbers are large ones without a sign. */
            const int inside = ((uint32_t)column < (uint32_t)width) & ((uint32_t)row < (uint32_t)height);
            const int32_t place = (int32_t)((uint32_t)row * (uint32_t)width + (uint32_t)column);
            places[x] = inside ? place : pixels;
        }
        for (int64_t channel = 0; channel < shape.channels; channel++) {
            const uint8_t *restrict copy = scratch.image + channel * (pixels + 1);
            uint8_t *restrict row = image + channel * pixels + (int64_t)y * width;
            for (int32_t x = 0; x < width; x++) row[x] = copy[places[x]];
        }
    }
}

static inline void look_up(uint8_t *restrict values, int64_t count, const uint8_t *restrict table) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) { /* eight values with one read and one write: half the time */
        uint64_t before, after = 0;
        memcpy(&before, values + i, 8);
        for (int place = 0; place < 64; place += 8) after |= (uint64_t)table[before >> place & 255] << place;
        memcpy(values + i, &after, 8);
    }
    for (; i < count; i++) values[i] = table[values[i]];
}

/* Pillow's grey, rounded; its weights are in 1/65536. */
static inline int32_t grey_of(int32_t red, int32_t green, int32_t blue) {
    return (red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16;
}

static inline void change_contrast(uint8_t *image, Shape shape, float factor) {
    const int64_t pixels = shape.height * shape.width;
    const uint8_t *red = image, *green = image + pixels, *blue = image + 2 * pixels;
    int64_t sum = 0;
    for (int64_t start = 0; start < pixels; start += 1 << 16) { /* as many as 32 bits can hold */
        const int64_t stop = pixels < start + (1 << 16) ? pixels : start + (1 << 16);
        int32_t part = 0;
        if (shape.channels == 1)
            for (int64_t i = start; i < stop; i++) part += image[i];
        else
            for (int64_t i = start; i < stop; i++) part += grey_of(red[i], green[i], blue[i]);
        sum += part;
    }
    const float mean = (float)(int32_t)((double)sum / (double)pixels + 0.5);
    uint8_t table[256];
    for (int32_t level = 0; level < 256; level++) table[level] = blended((float)level, mean, factor);
    look_up(image, shape.channels * pixels, table);
}

/* AutoContrast: the lowest value becomes 0 and the highest 255. */
static inline void stretch(uint8_t *plane, int64_t pixels) {
    uint8_t low = 255, high = 0;
    for (int64_t i = 0; i < pixels; i++) low = plane[i] < low ? plane[i] : low;
    for (int64_t i = 0; i < pixels; i++) high = plane[i] > high ? plane[i] : high;
    if (low >= high) return;
    const double scale = 255.0 / (double)(high - low), offset = -(double)low * scale;
    uint8_t table[256];
    for (int32_t level = 0; level < 256; level++) {
        const int32_t whole = (int32_t)((double)level * scale + offset);
        table[level] = (uint8_t)(whole < 0 ? 0 : whole > 255 ? 255 : whole);
    }
    look_up(plane, pixels, table);
}

static inline void equalize(uint8_t *plane, int64_t pixels) {
    /* Four, as two equal values in a row would wait for each other. */
    uint32_t parts[4][256], counts[256];
    memset(parts, 0, sizeof parts);
    int64_t i = 0;
    for (; i + 4 <= pixels; i += 4)
        for (int part = 0; part < 4; part++) parts[part][plane[i + part]]++;
    for (; i < pixels; i++) parts[0][plane[i]]++;
    int32_t highest = 0;
    for (int32_t level = 0; level < 256; level++) {
        counts[level] = parts[0][level] + parts[1][level] + parts[2][level] + parts[3][level];
        highest = counts[level] ? level : highest;
    }
    const uint32_t step = ((uint32_t)pixels - counts[highest]) / 255;
    if (step == 0) return;
    uint32_t before = step / 2;
    for (int32_t level = 0; level < 256; level++) {
        const uint32_t here = counts[level];
        counts[level] = before;
        before += here;
    }
    uint8_t table[256];
    for (int32_t level = 0; level < 256; level++) {
        /* Exact: a quotient of such small whole numbers never rounds up to the next one. */
        const int32_t whole = (int32_t)((double)(int32_t)counts[level] / (double)(int32_t)step);
        table[level] = (uint8_t)(whole > 255 ? 255 : whole);
    }
    look_up(plane, pixels, table);
}

static inline void change_colour(uint8_t *image, Shape shape, float factor) {
    if (shape.channels == 1) return;
    const int64_t pixels = shape.height * shape.width;
    uint8_t *restrict red = image, *restrict green = image + pixels, *restrict blue = image + 2 * pixels;
    for (int64_t i = 0; i < pixels; i++) {
        const float grey = (float)grey_of(red[i], green[i], blue[i]);
        red[i] = blended((float)red[i], grey, factor);
        green[i] = blended((float)green[i], grey, factor);
        blue[i] = blended((float)blue[i], grey, factor);
    }
}

/* Away from the mean of 3 x 3 pixels in which the centre counts 5 of 13; the border stays. */
static inline void sharpen(uint8_t *restrict plane, int64_t height, int64_t width, float factor,
                           uint8_t *restrict copy) {
    const int64_t first = width + 1, stop = (height - 1) * width - 1;
    if (height < 3 || width < 3) return;
    memcpy(copy, plane, (size_t)(height * width));
    /* One line of values that runs on from row to row: what it makes of the border is replaced. */
    for (int64_t i = first; i < stop; i++) {
        const uint8_t *above = copy + i - width, *here = copy + i, *below = copy + i + width;
        const uint16_t sum = (uint16_t)(above[-1] + above[0] + above[1] + here[-1] + 5 * here[0] + here[1] +
                                        below[-1] + below[0] + below[1]);
        /* sum / 13, rounded: 5042 is 65536 / 13, and the error too small to show up to 13 * 255. */
        plane[i] = (uint8_t)(((uint32_t)(uint16_t)(sum + 6) * 5042) >> 16);
    }
    for (int64_t i = first; i < stop; i++) plane[i] = blended((float)copy[i], (float)plane[i], factor);
    for (int64_t y = 1; y < height - 1; y++) {
        plane[y * width] = copy[y * width];
        plane[(y + 1) * width - 1] = copy[(y + 1) * width - 1];
    }
}

/* A square around a place given in shares of the sides, as ImageDraw.rectangle fills it: with its last pixel. */
static inline void fill(uint8_t *image, Shape shape, double side, const double *centre, const uint8_t *colour) {
    const int64_t height = shape.height, width = shape.width;
    const double left = centre[0] * (double)width - side / 2, top = centre[1] * (double)height - side / 2;
    if (!(side > 0 && left < (double)width && top < (double)height)) return;
    const int64_t x0 = left > 0 ? (int64_t)left : 0, y0 = top > 0 ? (int64_t)top : 0;
    const double right = (double)x0 + side, bottom = (double)y0 + side;
    const int64_t x1 = right < (double)(width - 1) ? (int64_t)right : width - 1;
    const int64_t y1 = bottom < (double)(height - 1) ? (int64_t)bottom : height - 1;
    for (int64_t channel = 0; channel < shape.channels; channel++)
        for (int64_t y = y0; y <= y1; y++)
            memset(image + (channel * height + y) * width + x0, colour[channel], (size_t)(x1 - x0 + 1));
}

static void run_step(uint8_t *image, Shape shape, const Steps *steps, int64_t step, const double *centre,
                     const uint8_t *colour, Scratch scratch) {
    const int64_t pixels = shape.height * shape.width, row = steps->rows[step];
    switch (steps->works[step]) {
    case MOVE:
        move(image, shape, steps->coefficients + 6 * row, scratch);
        break;
    case LOOK_UP:
        look_up(image, shape.channels * pixels, steps->tables + 256 * row);
        break;
    case CONTRAST:
        change_contrast(image, shape, steps->factors[step]);
        break;
    case STRETCH:
        for (int64_t channel = 0; channel < shape.channels; channel++) stretch(image + channel * pixels, pixels);
        break;
    case EQUALIZE:
        for (int64_t channel = 0; channel < shape.channels; channel++) equalize(image + channel * pixels, pixels);
        break;
    case COLOUR:
        change_colour(image, shape, steps->factors[step]);
        break;
    case SHARPEN:
        for (int64_t channel = 0; channel < shape.channels; channel++)
            sharpen(image + channel * pixels, shape.height, shape.width, steps->factors[step], scratch.image);
        break;
    case FILL:
        fill(image, shape, steps->sides[step], centre, colour);
        break;
    }
}

/* The entries of image i, in their order, are order[starts[i]] to order[starts[i + 1] - 1]; starts: [batch + 2]. */
static int sort_entries(int64_t batch, int64_t steps, int64_t entries, const int64_t *taken, const int64_t *chosen,
                        int64_t *starts, int64_t *order) {
    memset(starts, 0, (size_t)(batch + 2) * sizeof *starts);
    for (int64_t i = 0; i < entries; i++) {
        if (taken[i] < 0 || taken[i] >= batch || chosen[i] < 0 || chosen[i] >= steps) return WRONG_ENTRY;
        starts[taken[i] + 2]++;
    }
    for (int64_t image = 0; image < batch; image++) starts[image + 2] += starts[image + 1];
    for (int64_t i = 0; i < entries; i++) order[starts[taken[i] + 1]++] = i;
    return FINISHED;
}

/* Change images [batch, channels, height, width] in place: image taken[i] by step chosen[i], in the order of i.
   centres: [entries, 2] and colour: [channels], of FILL. */
int netpress_run_policies(uint8_t *images, int64_t batch, int64_t channels, int64_t height, int64_t width,
                          const Steps *steps, int64_t entries, const int64_t *taken, const int64_t *chosen,
                          const double *centres, const uint8_t *colour, int threads) {
    const Shape shape = {channels, height, width};
    const size_t copy = (size_t)(channels * (height * width + 1) + 63) / 64 * 64;
    const size_t line = ((size_t)width * sizeof(int32_t) + 63) / 64 * 64;
    int64_t *starts = malloc((size_t)(batch + 2 + entries) * sizeof *starts);
    uint8_t *memory = malloc((size_t)threads * (copy + line));
    int outcome = NO_MEMORY;
    if (starts && memory) {
        int64_t *order = starts + batch + 2;
        outcome = sort_entries(batch, steps->count, entries, taken, chosen, starts, order);
        if (outcome == FINISHED) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 4)
            for (int64_t image = 0; image < batch; image++) {
#ifdef _OPENMP
                uint8_t *own = memory + (size_t)omp_get_thread_num() * (copy + line);
#else
                uint8_t *own = memory;
#endif
                const Scratch scratch = {own + line, (int32_t *)own};
                for (int64_t place = starts[image]; place < starts[image + 1]; place++) {
                    const int64_t i = order[place];
                    run_step(images + image * channels * height * width, shape, steps, chosen[i], centres + 2 * i,
                             colour, scratch);
                }
            }
        }
    }
    free(memory);
    free(starts);
    return outcome;
}
