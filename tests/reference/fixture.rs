//! One fixture: its parameters, inputs, expected outputs, and what did not match.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

pub(crate) struct Folder {
    path: PathBuf,
    manifest: Value,
}

impl Folder {
    /// `None`, loudly, when there are no fixtures and none are required.
    #[expect(clippy::print_stdout, reason = "a skipped check must be seen")]
    pub(crate) fn open() -> Option<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let path = std::env::var_os("SCANSIDE_FIXTURES").map_or_else(
            || workspace.join("../shared/fixtures"),
            |path| workspace.join(path),
        );
        let Ok(text) = std::fs::read_to_string(path.join("manifest.json")) else {
            let words = format!("SKIPPED: no fixtures in {}", path.display());
            assert!(
                std::env::var_os("SCANSIDE_REQUIRE_SHARED").is_none(),
                "{words}"
            );
            println!("{words}");
            return None;
        };
        Some(Self {
            path,
            manifest: serde_json::from_str(&text).unwrap(),
        })
    }

    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path.join(name)).unwrap()).unwrap()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.manifest["fixtures"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    pub(crate) fn fixture(&self, name: &str) -> Fixture {
        let entry = self.manifest["fixtures"][name].clone();
        let load = |file: &str| -> HashMap<String, Tensor> {
            candle_core::safetensors::load(self.path.join(file), &Device::Cpu).unwrap()
        };
        let tensors = load(entry["file"].as_str().unwrap());
        let mut params = BTreeMap::new();
        if let Some(base) = entry["params_from"].as_str() {
            params = params_of(&load(base));
            for pair in entry["param_rename"].as_array().into_iter().flatten() {
                let tensor = params.remove(pair[0].as_str().unwrap()).unwrap();
                params.insert(pair[1].as_str().unwrap().to_owned(), tensor);
            }
            for dropped in entry["params_dropped"].as_array().into_iter().flatten() {
                params.remove(dropped.as_str().unwrap());
            }
        }
        params.extend(params_of(&tensors));
        let unchecked = tensors
            .keys()
            .filter(|it| it.starts_with("out."))
            .cloned()
            .collect();
        Fixture {
            name: name.to_owned(),
            entry,
            tensors,
            params,
            unchecked,
            n_outputs: 0,
            failures: Vec::new(),
        }
    }
}

fn params_of(tensors: &HashMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    let named = tensors
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix("param.")?, t)));
    named
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, tensor)| (name.to_owned(), tensor.to_dtype(DType::F32).unwrap()))
        .collect()
}

pub(crate) struct Fixture {
    name: String,
    pub(crate) entry: Value,
    tensors: HashMap<String, Tensor>,
    pub(crate) params: BTreeMap<String, Tensor>,
    unchecked: BTreeSet<String>,
    n_outputs: usize,
    failures: Vec<String>,
}

impl Fixture {
    pub(crate) fn kind(&self) -> String {
        self.entry["kind"].as_str().unwrap().to_owned()
    }

    /// `in.{name}` as f32.
    pub(crate) fn input(&self, name: &str) -> Tensor {
        self.tensors[&format!("in.{name}")]
            .to_dtype(DType::F32)
            .unwrap()
    }

    pub(crate) fn has_input(&self, name: &str) -> bool {
        self.tensors.contains_key(&format!("in.{name}"))
    }

    pub(crate) fn has_output(&self, name: &str) -> bool {
        self.tensors.contains_key(&format!("out.{name}"))
    }

    pub(crate) fn constructor(&self, key: &str) -> usize {
        self.entry["constructor"][key].as_u64().unwrap() as usize
    }

    pub(crate) fn four(&self, key: &str) -> [usize; 4] {
        let list = self.entry["constructor"][key].as_array().unwrap();
        std::array::from_fn(|i| list[i].as_u64().unwrap() as usize)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.entry["args"][key].as_bool().unwrap()
    }

    /// A list among the reference's arguments.
    pub(crate) fn indices(&self, key: &str) -> Vec<usize> {
        let list = self.entry["args"][key].as_array().unwrap();
        list.iter()
            .map(|it| it.as_u64().unwrap() as usize)
            .collect()
    }

    pub(crate) fn lora_rank(&self) -> usize {
        self.entry["lora"]["rank"].as_u64().unwrap() as usize
    }

    /// Compares with `out.{name}`, or with its sample.
    pub(crate) fn check(&mut self, name: &str, got: &Tensor) {
        let full = format!("out.{name}");
        let sample = format!("out.{name}.sample");
        let got = got.detach().to_dtype(DType::F64).unwrap();
        if self.tensors.contains_key(&full) {
            let expected = self.tensors[&full].clone();
            let same_size = expected.elem_count() == got.elem_count();
            if !same_size || (expected.rank() > 1 && expected.dims() != got.dims()) {
                let words = format!("{full}: shape {:?} for {:?}", got.dims(), expected.dims());
                self.unchecked.remove(&full);
                self.failures.push(words);
                return;
            }
            self.compare(&full, &values(&got), &values(&expected));
        } else {
            let rule = &self.entry["samples"][&sample];
            let step = rule["step"].as_u64().unwrap() as usize;
            let shape: Vec<usize> = rule["full_shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| it.as_u64().unwrap() as usize)
                .collect();
            assert_eq!(got.dims(), shape, "{sample}");
            let got: Vec<f64> = values(&got).into_iter().step_by(step).collect();
            let expected = values(&self.tensors[&sample]);
            self.compare(&sample, &got, &expected);
        }
    }

    fn compare(&mut self, key: &str, got: &[f64], expected: &[f64]) {
        self.unchecked.remove(key);
        self.n_outputs += 1;
        let tolerance = &self.entry["tolerance"];
        let plain = key.trim_end_matches(".sample");
        let atol = tolerance[key]["atol"]
            .as_f64()
            .or(tolerance[plain]["atol"].as_f64())
            .unwrap_or(0.0);
        assert_eq!(got.len(), expected.len(), "{key}");
        let worst = got
            .iter()
            .zip(expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        if worst > atol || got.iter().any(|it| it.is_nan()) {
            self.failures
                .push(format!("{key}: off by {worst:.3e}, allowed {atol:.1e}"));
        }
    }

    /// A pixel whose logit lies within `atol` of 0 may flip.
    pub(crate) fn check_mask(&mut self, name: &str, logits: &Tensor, atol: f64) {
        let key = format!("out.{name}");
        self.unchecked.remove(&key);
        self.n_outputs += 1;
        let logits = values(&logits.to_dtype(DType::F64).unwrap());
        let wrong = logits
            .iter()
            .zip(values(&self.tensors[&key]))
            .filter(|(logit, mask)| logit.abs() > atol && (**logit > 0.0) != (*mask > 0.0))
            .count();
        if wrong > 0 {
            self.failures.push(format!("{key}: {wrong} px differ"));
        }
    }

    pub(crate) fn atol(&self, key: &str) -> f64 {
        self.entry["tolerance"][format!("out.{key}")]["atol"]
            .as_f64()
            .unwrap()
    }

    /// The number of outputs compared, or what is wrong.
    pub(crate) fn verdict(self) -> Result<usize, String> {
        if self.failures.is_empty() && self.unchecked.is_empty() {
            return Ok(self.n_outputs);
        }
        let mut failures = self.failures;
        failures.extend(
            self.unchecked
                .iter()
                .map(|key| format!("{key}: not checked")),
        );
        let shown: Vec<String> = failures
            .iter()
            .take(8)
            .map(|it| format!("  {it}"))
            .collect();
        Err(format!(
            "{} ({} wrong)\n{}",
            self.name,
            failures.len(),
            shown.join("\n")
        ))
    }
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}
