/* NSS's softoken as an ordinary PKCS#11 module: C_Initialize gets the parameters that NSS itself would give it,
 * out of SOFTOKN_PARAMETERS. It keeps CKA_EXTRACTABLE, CKA_DERIVE and others and enforces none of them. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct function_list { /* CK_FUNCTION_LIST, v2.40: a version, then 68 functions, C_Initialize first */
    struct { unsigned char major, minor; } version;
    void *functions[68];
};
struct initialize_args { /* NSS's CK_C_INITIALIZE_ARGS: one field more than the standard's */
    void *mutex_functions[4];
    unsigned long flags;
    const char *library_parameters;
    void *reserved;
};
static struct function_list copy;
static unsigned long (*real_initialize)(struct initialize_args *);

static unsigned long initialize(void *ignored) {
    struct initialize_args args = { {0}, 2 /* CKF_OS_LOCKING_OK */, getenv("SOFTOKN_PARAMETERS"), 0 };
    (void)ignored;
    return real_initialize(&args);
}

unsigned long C_GetFunctionList(struct function_list **list) {
    struct function_list *real;
    void *module = dlopen("libsoftokn3.so", RTLD_NOW);
    unsigned long (*get)(struct function_list **) = module ? dlsym(module, "C_GetFunctionList") : 0;
    if (!get || get(&real)) return 5; /* CKR_GENERAL_ERROR */
    copy = *real;
    memcpy(&real_initialize, &copy.functions[0], sizeof real_initialize);
    copy.functions[0] = (void *)initialize;
    *list = &copy;
    return 0;
}
