// The kernels that `launch.rs` starts on a GPU. All have one signature: up to three inputs, the output, and what
// the launch says in numbers. Sums are in f32 whatever the values' type T is.
//
// tests/host.cpp makes this file C++ for a CPU, where every kernel is compared with its operation in Rust.

#ifdef __CUDACC__
#include <cuda_bf16.h>
#endif

#define THREADS 256

struct Numbers {
    unsigned n[10];
    float real;
};

__device__ inline float load(float x) { return x; }
__device__ inline void store(float *to, float x) { *to = x; }
#ifdef __CUDACC__
__device__ inline float load(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void store(__nv_bfloat16 *to, float x) { *to = __float2bfloat16(x); }
#define BF16_KERNEL(name)                                                                                              \
    extern "C" __global__ void name##_bf16(const __nv_bfloat16 *a, const __nv_bfloat16 *b, const __nv_bfloat16 *c,     \
                                           __nv_bfloat16 *out, Numbers p) {                                            \
        name##_of(a, b, c, out, p);                                                                                    \
    }
#else
#define BF16_KERNEL(name)
#endif

#define KERNEL(name)                                                                                                   \
    template <typename T> __device__ void name##_of(const T *, const T *, const T *, T *, const Numbers &);            \
    extern "C" __global__ void name(const float *a, const float *b, const float *c, float *out, Numbers p) {           \
        name##_of(a, b, c, out, p);                                                                                    \
    }                                                                                                                  \
    BF16_KERNEL(name)                                                                                                  \
    template <typename T>                                                                                              \
    __device__ void name##_of(const T *a, const T *b, const T *c, T *out, const Numbers &p)

// One thread an element of the output.
#define EACH(total)                                                                                                    \
    size_t at = (size_t)blockIdx.x * THREADS + threadIdx.x;                                                            \
    if (at >= (total)) return

// `width` values, shared out among a block's threads.
#define SHARE(i, width) for (unsigned i = threadIdx.x; i < (width); i += THREADS)

struct Sum {
    __device__ static float join(float a, float b) { return a + b; }
};
struct Max {
    __device__ static float join(float a, float b) { return a > b ? a : b; }
};

// What the block's threads hold together; all of them get it.
template <typename Join> __device__ float together(float value) {
    __shared__ float values[THREADS];
    values[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) values[threadIdx.x] = Join::join(values[threadIdx.x], values[threadIdx.x + half]);
        __syncthreads();
    }
    float all = values[0];
    __syncthreads();
    return all;
}

// a (rows, width) + b (width). n: values, width.
KERNEL(add_row) {
    EACH(p.n[0]);
    store(out + at, load(a[at]) + load(b[at % p.n[1]]));
}

// The standard normal's distribution function.
__device__ inline float normal(float x) { return 0.5f * (1.0f + erff(x * 0.70710678f)); }

// n: values.
KERNEL(gelu) {
    EACH(p.n[0]);
    float x = load(a[at]);
    store(out + at, x * normal(x));
}

// From x and the gradient. n: values.
KERNEL(gelu_backward) {
    EACH(p.n[0]);
    float x = load(a[at]);
    store(out + at, load(b[at]) * (normal(x) + x * 0.39894228f * expf(-0.5f * x * x)));
}

__device__ inline float cubic(float x) { return 1.5957691f * x * (1.0f + 0.044715f * x * x); }

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// n: values.
KERNEL(gelu_tanh) {
    EACH(p.n[0]);
    float x = load(a[at]);
    store(out + at, x * sigmoid(cubic(x)));
}

// From x and the gradient. n: values.
KERNEL(gelu_tanh_backward) {
    EACH(p.n[0]);
    float x = load(a[at]), s = sigmoid(cubic(x));
    float slope = s * (1.0f - s) * 1.5957691f * (1.0f + 0.134145f * x * x);
    store(out + at, load(b[at]) * (s + x * slope));
}

__device__ inline float hard_sigmoid(float x) { return fminf(fmaxf(x / 6.0f + 0.5f, 0.0f), 1.0f); }

// n: values.
KERNEL(hard_swish) {
    EACH(p.n[0]);
    float x = load(a[at]);
    store(out + at, x * hard_sigmoid(x));
}

// From x and the gradient. n: values.
KERNEL(hard_swish_backward) {
    EACH(p.n[0]);
    float x = load(a[at]);
    store(out + at, load(b[at]) * (hard_sigmoid(x) + (fabsf(x) < 3.0f ? x / 6.0f : 0.0f)));
}

// What the bias b adds to score i of row `row`: nothing (kind 0); b (period), repeated (kind 1); or for keys on a grid
// of rows x cols the row's and the column's part, b (.., rows + cols) (kind 2). n: width, kind, period, rows, cols.
template <typename T> __device__ inline float bias_of(const T *b, const Numbers &p, size_t row, unsigned i) {
    if (p.n[1] == 1) return load(b[(row * p.n[0] + i) % p.n[2]]);
    if (p.n[1] == 2) {
        const T *of = b + row * (p.n[3] + p.n[4]);
        return load(of[i / p.n[4]]) + load(of[p.n[3] + i % p.n[4]]);
    }
    return 0;
}

// Softmax of real * a + bias, one block a row.
KERNEL(softmax) {
    size_t row = blockIdx.x;
    const T *x = a + row * p.n[0];
    float top = -INFINITY, sum = 0;
    SHARE(i, p.n[0]) top = Max::join(top, p.real * load(x[i]) + bias_of(b, p, row, i));
    top = together<Max>(top);
    SHARE(i, p.n[0]) sum += expf(p.real * load(x[i]) + bias_of(b, p, row, i) - top);
    float scale = 1.0f / together<Sum>(sum);
    SHARE(i, p.n[0])
    store(out + row * p.n[0] + i, scale * expf(p.real * load(x[i]) + bias_of(b, p, row, i) - top));
}

// From the softmax and its gradient, that of real * a; one block a row. n: width.
KERNEL(softmax_backward) {
    size_t from = (size_t)blockIdx.x * p.n[0];
    float dot = 0;
    SHARE(i, p.n[0]) dot += load(a[from + i]) * load(b[from + i]);
    dot = together<Sum>(dot);
    SHARE(i, p.n[0]) store(out + from + i, p.real * load(a[from + i]) * (load(b[from + i]) - dot));
}

// Gradient of a bias of kind 2 from `real` times that of the scores; one block a query. n: rows, cols.
KERNEL(grid_bias_backward) {
    unsigned rows = p.n[0], cols = p.n[1];
    const T *x = a + (size_t)blockIdx.x * rows * cols;
    SHARE(i, rows + cols) {
        float sum = 0;
        if (i < rows)
            for (unsigned col = 0; col < cols; col++) sum += load(x[i * cols + col]);
        else
            for (unsigned row = 0; row < rows; row++) sum += load(x[row * cols + i - rows]);
        store(out + (size_t)blockIdx.x * (rows + cols) + i, sum / p.real);
    }
}

// How a k x k kernel lies on an image, as `im2col.rs` has it. n: values, channels, height, width, the output's height
// and width, k, stride, padding.
struct Windows {
    unsigned channels, height, width, out_height, out_width, k, stride, padding;
    __device__ Windows(const Numbers &p)
        : channels(p.n[1]), height(p.n[2]), width(p.n[3]), out_height(p.n[4]), out_width(p.n[5]), k(p.n[6]),
          stride(p.n[7]), padding(p.n[8]) {}
    // Whether output position `at` sees the image at tap `tap` of an axis, and where.
    __device__ bool sees(unsigned at, unsigned tap, unsigned size, unsigned *pixel) const {
        *pixel = at * stride + tap - padding;
        return *pixel < size;
    }
    // Whether an output position sees pixel `at` through tap `tap`, and which.
    __device__ bool seen(unsigned at, unsigned tap, unsigned out_size, unsigned *position) const {
        unsigned from = at + padding - tap;
        *position = from / stride;
        return at + padding >= tap && from % stride == 0 && *position < out_size;
    }
};

// Image (B, C, H, W) to its windows (B, pixels, C k k).
KERNEL(gather) {
    EACH(p.n[0]);
    Windows w(p);
    unsigned taps = w.channels * w.k * w.k, tap = at % taps, plane = w.out_height * w.out_width;
    unsigned pixel = at / taps % plane, channel = tap / (w.k * w.k), y, x;
    size_t image = at / taps / plane;
    bool inside = w.sees(pixel / w.out_width, tap / w.k % w.k, w.height, &y);
    inside = w.sees(pixel % w.out_width, tap % w.k, w.width, &x) && inside;
    store(out + at, inside ? load(a[((image * w.channels + channel) * w.height + y) * w.width + x]) : 0.0f);
}

// The adjoint: adds up what every window says of a pixel.
KERNEL(scatter) {
    EACH(p.n[0]);
    Windows w(p);
    unsigned x = at % w.width, y = at / w.width % w.height, taps = w.channels * w.k * w.k;
    size_t plane = at / w.width / w.height, channel = plane % w.channels, image = plane / w.channels;
    float sum = 0;
    for (unsigned tap = 0; tap < w.k * w.k; tap++) {
        unsigned row, column;
        if (w.seen(y, tap / w.k, w.out_height, &row) && w.seen(x, tap % w.k, w.out_width, &column)) {
            size_t pixel = (image * w.out_height + row) * w.out_width + column;
            sum += load(a[pixel * taps + channel * w.k * w.k + tap]);
        }
    }
    store(out + at, sum);
}

// a (B, C, H, W) with b (C, k, k).
KERNEL(depthwise) {
    EACH(p.n[0]);
    Windows w(p);
    unsigned column = at % w.out_width, row = at / w.out_width % w.out_height;
    size_t plane = at / w.out_width / w.out_height;
    const T *kernel = b + plane % w.channels * w.k * w.k;
    float sum = 0;
    for (unsigned tap = 0; tap < w.k * w.k; tap++) {
        unsigned y, x;
        if (w.sees(row, tap / w.k, w.height, &y) && w.sees(column, tap % w.k, w.width, &x))
            sum += load(kernel[tap]) * load(a[(plane * w.height + y) * w.width + x]);
    }
    store(out + at, sum);
}

// From the weight (C, k, k) and the gradient.
KERNEL(depthwise_input_gradient) {
    EACH(p.n[0]);
    Windows w(p);
    unsigned x = at % w.width, y = at / w.width % w.height;
    size_t plane = at / w.width / w.height;
    const T *kernel = a + plane % w.channels * w.k * w.k;
    float sum = 0;
    for (unsigned tap = 0; tap < w.k * w.k; tap++) {
        unsigned row, column;
        if (w.seen(y, tap / w.k, w.out_height, &row) && w.seen(x, tap % w.k, w.out_width, &column))
            sum += load(kernel[tap]) * load(b[(plane * w.out_height + row) * w.out_width + column]);
    }
    store(out + at, sum);
}

// From the input and the gradient, one block a tap of a channel. n[0] is the batch.
KERNEL(depthwise_weight_gradient) {
    Windows w(p);
    unsigned taps = w.k * w.k, tap = blockIdx.x % taps, channel = blockIdx.x / taps, plane = w.out_height * w.out_width;
    float sum = 0;
    SHARE(i, p.n[0] * plane) {
        unsigned y, x, pixel = i % plane;
        size_t index = (size_t)(i / plane) * w.channels + channel;
        if (w.sees(pixel / w.out_width, tap / w.k, w.height, &y) && w.sees(pixel % w.out_width, tap % w.k, w.width, &x))
            sum += load(b[index * plane + pixel]) * load(a[(index * w.height + y) * w.width + x]);
    }
    sum = together<Sum>(sum);
    if (threadIdx.x == 0) store(out + blockIdx.x, sum);
}

// Mean of a row and the inverse of its standard deviation.
template <typename T> __device__ void statistics(const T *x, unsigned width, float eps, float *mean, float *inverse) {
    float sum = 0, square = 0;
    SHARE(i, width) sum += load(x[i]);
    *mean = together<Sum>(sum) / width;
    SHARE(i, width) square += (load(x[i]) - *mean) * (load(x[i]) - *mean);
    *inverse = rsqrtf(together<Sum>(square) / width + eps);
}

// a (rows, width) with weight b and bias c, one block a row; `real` is epsilon. n: width.
KERNEL(layer_norm) {
    size_t from = (size_t)blockIdx.x * p.n[0];
    float mean, inverse;
    statistics(a + from, p.n[0], p.real, &mean, &inverse);
    SHARE(i, p.n[0]) store(out + from + i, (load(a[from + i]) - mean) * inverse * load(b[i]) + load(c[i]));
}

// The input's gradient from a, the weight b and the gradient c.
KERNEL(layer_norm_backward) {
    size_t from = (size_t)blockIdx.x * p.n[0];
    float mean, inverse, sum = 0, dot = 0;
    statistics(a + from, p.n[0], p.real, &mean, &inverse);
    SHARE(i, p.n[0]) {
        float scaled = load(b[i]) * load(c[from + i]);
        sum += scaled;
        dot += scaled * (load(a[from + i]) - mean);
    }
    float average = together<Sum>(sum) / p.n[0];
    float slope = together<Sum>(dot) / p.n[0] * inverse * inverse;
    SHARE(i, p.n[0]) {
        float scaled = load(b[i]) * load(c[from + i]);
        store(out + from + i, inverse * (scaled - average - (load(a[from + i]) - mean) * slope));
    }
}
