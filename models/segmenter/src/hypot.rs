//! `hypot` and `hypotf` of the C library, for tract's complex numbers, which no graph of ours has. glibc 2.35 gave both
//! a new version, and a program linked there or later that takes them from glibc does not start on RHEL 9 (2.34) for
//! their sake alone. Here they are Rust, and found before glibc's.

#[expect(
    unsafe_code,
    reason = "the C library's name, for what it does there: two numbers in, one out"
)]
#[unsafe(no_mangle)]
extern "C" fn hypot(x: f64, y: f64) -> f64 {
    libm::hypot(x, y)
}

#[expect(
    unsafe_code,
    reason = "the C library's name, for what it does there: two numbers in, one out"
)]
#[unsafe(no_mangle)]
extern "C" fn hypotf(x: f32, y: f32) -> f32 {
    libm::hypotf(x, y)
}
