/* What makes the kernels an extension module, so that installing builds them. They are called through ctypes
   (library.py), on pointers to tensors: Python objects stay in Python. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* As VERSION in library.py. */
int netpress_version(void) { return 3; }

static struct PyModuleDef kernels = {PyModuleDef_HEAD_INIT, "_kernels", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&kernels); }
