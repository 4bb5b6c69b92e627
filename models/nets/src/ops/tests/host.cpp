// Runs the kernels of ../kernels.cu on a CPU: host FILE. The file has what Rust recorded (gpu.rs writes it); every
// output is compared with Rust's. A block's threads are coroutines that change places at __syncthreads().

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx;
static void __syncthreads();
static float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

#include "../kernels.cu"

static ucontext_t scheduler, fibers[THREADS];
static bool done[THREADS];
static std::function<void()> body;

static void __syncthreads() {
    unsigned own = threadIdx.x;
    swapcontext(&fibers[own], &scheduler);
    threadIdx.x = own;
}

static void run_thread(int index) {
    threadIdx.x = (unsigned)index;
    body();
    done[index] = true;
}

static void run_block(unsigned block) {
    static std::vector<char> stacks((size_t)THREADS << 16);
    blockIdx.x = block;
    for (int i = 0; i < THREADS; i++) {
        done[i] = false;
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = &stacks[(size_t)i << 16];
        fibers[i].uc_stack.ss_size = 1 << 16;
        fibers[i].uc_link = &scheduler;
        makecontext(&fibers[i], (void (*)())run_thread, 1, i);
    }
    for (bool running = true; running;) {
        running = false;
        for (int i = 0; i < THREADS; i++) {
            if (done[i]) continue;
            threadIdx.x = (unsigned)i;
            swapcontext(&scheduler, &fibers[i]);
            running = running || !done[i];
        }
    }
}

using Kernel = void (*)(const float *, const float *, const float *, float *, Numbers);
static const std::map<std::string, Kernel> KERNELS = {
#define NAMED(name) {#name, name}
    NAMED(add_row), NAMED(gelu), NAMED(gelu_backward), NAMED(gelu_tanh), NAMED(gelu_tanh_backward),
    NAMED(hard_swish), NAMED(hard_swish_backward), NAMED(softmax), NAMED(softmax_backward),
    NAMED(grid_bias_backward), NAMED(gather), NAMED(scatter), NAMED(depthwise), NAMED(depthwise_input_gradient),
    NAMED(depthwise_weight_gradient), NAMED(layer_norm), NAMED(layer_norm_backward),
};

template <typename T> static bool read(FILE *file, T *to, size_t n) { return fread(to, sizeof(T), n, file) == n; }

static std::vector<float> read_floats(FILE *file) {
    uint32_t n = 0;
    read(file, &n, 1);
    std::vector<float> values(n);
    if (!read(file, values.data(), n)) exit(2);
    return values;
}

int main(int, char **arguments) {
    FILE *file = fopen(arguments[1], "rb");
    if (!file) return 2;
    std::map<std::string, int> runs;
    char name[32];
    bool good = true;
    while (read(file, name, sizeof(name))) {
        uint32_t blocks = 0, n_inputs = 0;
        Numbers numbers;
        read(file, &blocks, 1);
        read(file, &numbers, 1);
        read(file, &n_inputs, 1);
        std::vector<std::vector<float>> inputs;
        for (uint32_t i = 0; i < n_inputs; i++) inputs.push_back(read_floats(file));
        std::vector<float> expected = read_floats(file), out(expected.size(), 0.0f);
        Kernel kernel = KERNELS.at(name);
        auto input = [&](size_t i) { return inputs[i < inputs.size() ? i : 0].data(); };
        body = [&] { kernel(input(0), input(1), input(2), out.data(), numbers); };
        for (uint32_t block = 0; block < blocks; block++) run_block(block);
        float largest = 1, worst = 0;
        for (float x : expected) largest = std::fmax(largest, std::fabs(x));
        for (size_t i = 0; i < out.size(); i++) {
            float difference = std::fabs(out[i] - expected[i]);
            worst = difference <= worst ? worst : difference; // NaN is worse than all
        }
        runs[name]++;
        if (!(worst < 2e-5f * largest)) {
            printf("%s differs from Rust by %g (largest value %g, %zu values)\n", name, worst, largest, out.size());
            good = false;
        }
    }
    for (const auto &kernel : KERNELS) {
        printf("%s: %d runs\n", kernel.first.c_str(), runs[kernel.first]);
        good = good && runs[kernel.first] > 0;
    }
    return good ? 0 : 1;
}
