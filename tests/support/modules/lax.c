/* The module that LAX_MODULE names, but C_GenerateKey makes every secret key with CKA_EXTRACTABLE true, whatever
 * its template says: a token that takes the attribute and does not enforce it. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

struct function_list { /* CK_FUNCTION_LIST, v2.40: a version, then 68 functions, C_Initialize first */
    struct { unsigned char major, minor; } version;
    void *functions[68];
};
struct attribute { unsigned long type; void *value; unsigned long length; };
enum { GENERATE_KEY = 58, EXTRACTABLE = 0x162, MOST = 64 };
static struct function_list copy;
static unsigned char yes = 1;
static unsigned long (*real_generate_key)(unsigned long, void *, struct attribute *, unsigned long, unsigned long *);

static unsigned long generate_key(
    unsigned long session, void *mechanism, struct attribute *wanted, unsigned long count, unsigned long *key
) {
    struct attribute changed[MOST];
    if (count > MOST) return 5; /* CKR_GENERAL_ERROR */
    memcpy(changed, wanted, count * sizeof *wanted);
    for (unsigned long i = 0; i < count; i++)
        if (changed[i].type == EXTRACTABLE) changed[i].value = &yes;
    return real_generate_key(session, mechanism, changed, count, key);
}

unsigned long C_GetFunctionList(struct function_list **list) {
    struct function_list *real;
    const char *path = getenv("LAX_MODULE");
    void *module = path ? dlopen(path, RTLD_NOW) : 0;
    unsigned long (*get)(struct function_list **) = module ? dlsym(module, "C_GetFunctionList") : 0;
    if (!get || get(&real)) return 5;
    copy = *real;
    memcpy(&real_generate_key, &copy.functions[GENERATE_KEY], sizeof real_generate_key);
    copy.functions[GENERATE_KEY] = (void *)generate_key;
    *list = &copy;
    return 0;
}
