//! Learning rates as pure functions of the step.

/// The reference's schedule. With `warmup` steps W: lr / W twice, then lr k / W up to step W, then
/// lr (1 - (k - 1 - W) / max_steps)^0.9; without: constant.
pub fn reference(step: u64, learning_rate: f64, warmup: Option<u64>, max_steps: u64) -> f64 {
    let Some(warmup) = warmup else {
        return learning_rate;
    };
    if step <= warmup {
        return learning_rate * step.max(1) as f64 / warmup as f64;
    }
    let progress = (step - 1 - warmup) as f64 / max_steps as f64;
    learning_rate * (1.0 - progress).max(0.0).powf(0.9)
}

/// Linear from `peak` / W to `peak` over the first W steps, then polynomial (0.9) down to 0 at `total_steps`.
pub fn warmup_poly(step: u64, peak: f64, warmup_steps: u64, total_steps: u64) -> f64 {
    if step < warmup_steps {
        return peak * (step + 1) as f64 / warmup_steps as f64;
    }
    let rest = total_steps.saturating_sub(warmup_steps).max(1) as f64;
    peak * (1.0 - (step - warmup_steps) as f64 / rest)
        .max(0.0)
        .powf(0.9)
}
