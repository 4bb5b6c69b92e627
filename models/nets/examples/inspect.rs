//! Says what a checkpoint is: `inspect FILE`.

use std::process::ExitCode;

use candle_core::Device;
use nets::checkpoint;
use nets::params::Params;
use nets::sam::{EncoderConfig, Sam, SamConfig};
use nets::tiny_vit::TinyVitConfig;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]
fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: inspect FILE (.pth, .pt or .safetensors)");
        return ExitCode::from(2);
    };
    let state = match checkpoint::read(path.as_ref(), &Device::Cpu) {
        Ok(state) => state,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let n_values: usize = state.values().map(candle_core::Tensor::elem_count).sum();
    println!("{} tensors, {n_values} values", state.len());
    let n_tokens = state
        .get("mask_decoder.mask_tokens.weight")
        .map_or(4, |t| t.dims()[0]);
    for (name, encoder) in [
        (
            "LiteMedSAM (256 px, embedding 64 x 64)",
            TinyVitConfig::lite_medsam(),
        ),
        (
            "MobileSAM (1024 px, embedding 64 x 64)",
            TinyVitConfig::mobile_sam(1024),
        ),
    ] {
        let config = SamConfig {
            encoder: EncoderConfig::TinyVit(encoder),
            num_cls: n_tokens - 1,
            lora: None,
            adapter: None,
        };
        let params = Params::new(state.clone(), |_| false, 0);
        if let Err(error) = Sam::new(&config, &params) {
            eprintln!("{name}: {error}");
            return ExitCode::FAILURE;
        }
        let report = params.finish().report;
        println!(
            "as {name} with {} classes: {} tensors fit, {} would start random, {} unused",
            n_tokens - 1,
            report.loaded.len(),
            report.random.len(),
            report.unused.len()
        );
    }
    ExitCode::SUCCESS
}
