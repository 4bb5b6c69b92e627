// A plugin for qemu-aarch64: how many instructions the program executed, function by function. At exit it writes lines
// of `COUNT FUNCTION` to qemu's log (`-d plugin`), `?` for whatever has no symbol, as the C library's.
//
// No package has the header of qemu's plugins; declared here is what is used of its interface, version 1, qemu 7.2's.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum operation { ADD_U64 };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum operation operation, void *to,
                                              uint64_t addend);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_atexit_cb(uint64_t id, void (*exits)(uint64_t, void *), void *user_data);
void qemu_plugin_outs(const char *text);

int qemu_plugin_version = 1;

struct function {
    const char *name; // qemu's own string, so the pointer tells functions apart
    uint64_t count;
    struct function *next;
};
static struct function *functions;

static struct function *function_named(const char *name) {
    for (struct function *function = functions; function; function = function->next)
        if (function->name == name)
            return function;
    struct function *function = malloc(sizeof *function);
    if (!function)
        abort();
    *function = (struct function){name, 0, functions};
    return functions = function;
}

// qemu translates under a lock. Adding is not atomic: count programs that compute in one thread at a time.
static void translated(uint64_t id, struct qemu_plugin_tb *block) {
    (void)id;
    const char *name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &function_named(name)->count,
                                             qemu_plugin_tb_n_insns(block));
}

static void exits(uint64_t id, void *user_data) {
    (void)id;
    (void)user_data;
    for (struct function *function = functions; function; function = function->next) {
        char count[32];
        snprintf(count, sizeof count, "%llu ", (unsigned long long)function->count);
        qemu_plugin_outs(count);
        qemu_plugin_outs(function->name && *function->name ? function->name : "?");
        qemu_plugin_outs("\n");
    }
}

int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, exits, NULL);
    return 0;
}
