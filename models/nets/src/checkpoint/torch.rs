//! What `torch.save` means by the values of its pickle: tensors as views of storages, state dicts as
//! dictionaries of them.

use std::collections::{BTreeMap, HashSet};

use candle_core::DType;

use super::pickle::{Place, Value, Values};

/// Wrappers of wrappers, `_rebuild_parameter` of `_rebuild_from_type_v2` of a tensor.
const REBUILDS_MAX: usize = 4;
/// PyTorch's own limit.
const DIMS_MAX: usize = 64;

/// Elements of a storage, as `torch.as_strided` names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Name of the storage.
    pub(super) storage: String,
    pub(super) dtype: DType,
    /// In elements, as the strides.
    pub(super) offset: usize,
    pub(super) size: Vec<usize>,
    pub(super) stride: Vec<usize>,
    /// PyTorch's lazy minus sign.
    pub(super) negated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Float(View),
    /// What it is instead, as an adjective or a type: `int64`, `sparse`.
    NoFloat(String),
    /// Its description contradicts itself.
    Damaged,
}

/// The tensor at `place`, if there is one.
pub(super) fn entry(values: &Values, place: Place) -> Option<Entry> {
    let Value::Call {
        callable,
        arguments,
        ..
    } = values.at(place)
    else {
        return None;
    };
    let function = values.global(*callable)?;
    rebuilt(values, function, *arguments, REBUILDS_MAX)
}

fn rebuilt(values: &Values, function: &str, arguments: Place, rebuilds: usize) -> Option<Entry> {
    let function = function.strip_prefix("torch.").unwrap_or(function);
    let kind = function.strip_prefix("_utils._rebuild_");
    if kind.is_none() && function != "_tensor._rebuild_from_type_v2" {
        return None;
    }
    let Some(items) = values.tuple(arguments) else {
        return Some(Entry::Damaged);
    };
    let Some(kind) = kind else {
        // (function, type, its arguments, attributes)
        let inner = match *items {
            [function, _, arguments, ..] => values.global(function).map(|it| (it, arguments)),
            _ => None,
        };
        return match inner {
            Some((function, arguments)) if rebuilds > 0 => {
                rebuilt(values, function, arguments, rebuilds - 1)
            }
            _ => Some(Entry::Damaged),
        };
    };
    Some(match kind {
        "tensor" | "tensor_v2" => view(values, items, None).unwrap_or(Entry::Damaged),
        // (.., hooks, type)
        "tensor_v3" => {
            let dtype = items.get(6).and_then(|&it| values.global(it));
            dtype
                .and_then(|dtype| view(values, items, Some(dtype)))
                .unwrap_or(Entry::Damaged)
        }
        "parameter" | "parameter_with_state" => match items.first().map(|&it| values.at(it)) {
            Some(&Value::Call {
                callable,
                arguments,
                ..
            }) if rebuilds > 0 => values
                .global(callable)
                .and_then(|function| rebuilt(values, function, arguments, rebuilds - 1))
                .unwrap_or(Entry::Damaged),
            _ => Entry::Damaged,
        },
        "qtensor" => Entry::NoFloat("quantized".to_owned()),
        "sparse_tensor" | "sparse_csr_tensor" => Entry::NoFloat("sparse".to_owned()),
        "nested_tensor" => Entry::NoFloat("nested".to_owned()),
        "meta_tensor_no_storage" => Entry::NoFloat("without values (device meta)".to_owned()),
        other => Entry::NoFloat(format!("of the kind {other}")),
    })
}

/// From (storage, offset, size, stride, ..); `dtype` where the storage does not say it.
fn view(values: &Values, items: &[Place], dtype: Option<&str>) -> Option<Entry> {
    let &[storage, offset, size, stride, ..] = items else {
        return None;
    };
    let &Value::Persistent(id) = values.at(storage) else {
        return None;
    };
    // ("storage", class, name, device, elements)
    let &[_, class, name, ..] = values.tuple(id)? else {
        return None;
    };
    let dtype = match dtype {
        Some(dtype) => dtype.trim_start_matches("torch.").to_owned(),
        None => type_of_storage(values.global(class)?)?,
    };
    let float = match dtype.as_str() {
        "float32" => DType::F32,
        "float64" => DType::F64,
        "float16" => DType::F16,
        "bfloat16" => DType::BF16,
        _ => return Some(Entry::NoFloat(dtype)),
    };
    let (size, stride) = (values.indices(size)?, values.indices(stride)?);
    if size.len() != stride.len() || size.len() > DIMS_MAX {
        return None;
    }
    // `_rebuild_tensor_v2` has it behind the hooks, v3 behind the type.
    let flags = items.iter().skip(6).find_map(|&it| match values.at(it) {
        Value::Dict(entries) => Some(entries),
        _ => None,
    });
    let negated = flags.is_some_and(|flags| {
        flags.iter().any(|&(key, value)| {
            values.text(key) == Some("neg") && matches!(values.at(value), Value::Bool(true))
        })
    });
    Some(Entry::Float(View {
        storage: values.text(name)?.to_owned(),
        dtype: float,
        offset: values.index(offset)?,
        size,
        stride,
        negated,
    }))
}

/// `torch.HalfStorage` -> `float16`.
fn type_of_storage(class: &str) -> Option<String> {
    let class = class.rsplit('.').next()?.strip_suffix("Storage")?;
    Some(match class {
        "Float" => "float32".to_owned(),
        "Double" => "float64".to_owned(),
        "Half" => "float16".to_owned(),
        "Long" => "int64".to_owned(),
        "Int" => "int32".to_owned(),
        "Short" => "int16".to_owned(),
        "Char" => "int8".to_owned(),
        "Byte" => "uint8".to_owned(),
        "ComplexFloat" => "complex64".to_owned(),
        "ComplexDouble" => "complex128".to_owned(),
        other => other.to_lowercase(),
    })
}

/// A dictionary that holds tensors under names.
#[derive(Debug, Clone)]
pub(super) struct StateDict {
    /// Keys on the way to it; nothing for the file's own.
    pub(super) keys: Vec<String>,
    pub(super) n_tensors: usize,
    /// Adam's moments are tensors under names, too.
    pub(super) is_of_optimizer: bool,
    place: Place,
}

impl StateDict {
    pub(super) fn key(&self) -> String {
        self.keys.join(".")
    }

    pub(super) fn entries(&self, values: &Values) -> BTreeMap<String, Entry> {
        named(values, self.place)
            .map(|(name, entry)| (name.to_owned(), entry))
            .collect()
    }
}

fn named(values: &Values, place: Place) -> impl Iterator<Item = (&str, Entry)> {
    let pairs: &[(Place, Place)] = match values.at(place) {
        Value::Dict(pairs) => pairs,
        _ => &[],
    };
    pairs
        .iter()
        .filter_map(|&(key, value)| Some((values.text(key)?, entry(values, value)?)))
}

/// All that are there, outer ones first.
pub(super) fn state_dicts(values: &Values) -> Vec<StateDict> {
    let mut found = Vec::new();
    let mut seen = HashSet::from([values.root]);
    let mut level = vec![StateDict {
        keys: Vec::new(),
        n_tensors: 0,
        is_of_optimizer: false,
        place: values.root,
    }];
    while !level.is_empty() {
        let mut next = Vec::new();
        for mut it in level {
            it.is_of_optimizer |= is_optimizer(values, it.place);
            for (key, place) in children(values, it.place) {
                // Deeper ones belong to records, not to weights.
                if it.keys.len() < KEYS_MAX && seen.insert(place) {
                    next.push(StateDict {
                        n_tensors: 0,
                        is_of_optimizer: it.is_of_optimizer || names_optimizer(&key),
                        keys: [it.keys.as_slice(), &[key]].concat(),
                        place,
                    });
                }
            }
            it.n_tensors = named(values, it.place).count();
            if it.n_tensors > 0 {
                found.push(it);
            }
        }
        level = next;
    }
    found
}

/// What `Optimizer.state_dict()` gives.
fn is_optimizer(values: &Values, place: Place) -> bool {
    let Value::Dict(pairs) = values.at(place) else {
        return false;
    };
    let has = |name| pairs.iter().any(|pair| values.text(pair.0) == Some(name));
    has("state") && has("param_groups")
}

fn names_optimizer(key: &str) -> bool {
    let key = key.to_lowercase();
    key.contains("optim") || key.contains("scheduler")
}

const KEYS_MAX: usize = 4;

/// What can hold values in its turn, under keys or numbers.
fn children(values: &Values, place: Place) -> Vec<(String, Place)> {
    let holds = |place: &Place| {
        matches!(
            values.at(*place),
            Value::Dict(_) | Value::List(_) | Value::Tuple(_) | Value::Call { state: Some(_), .. }
        )
    };
    let key = |key| match values.at(key) {
        Value::Text(text) => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    };
    match values.at(place) {
        Value::Dict(pairs) => pairs
            .iter()
            .filter(|pair| holds(&pair.1))
            .filter_map(|&(name, value)| Some((key(name)?, value)))
            .collect(),
        Value::List(items) | Value::Tuple(items) => items
            .iter()
            .enumerate()
            .filter(|(_, item)| holds(item))
            .map(|(i, &item)| (i.to_string(), item))
            .collect(),
        Value::Call {
            state: Some(state), ..
        } => match values.at(*state) {
            Value::Dict(_) => children(values, *state),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The state dict that is meant, or those that it could be.
pub(super) fn choose(found: &[StateDict]) -> Result<&StateDict, Vec<&StateDict>> {
    let weights: Vec<&StateDict> = found.iter().filter(|it| !it.is_of_optimizer).collect();
    // As training scripts wrap them, or not at all.
    let usual = ["model", "state_dict", ""]
        .map(|key| weights.iter().find(|it| it.key() == key))
        .into_iter()
        .flatten()
        .copied()
        .reduce(|best, it| {
            if it.n_tensors > best.n_tensors {
                it
            } else {
                best
            }
        });
    let largest = weights.iter().map(|it| it.n_tensors).max();
    match (usual, weights.as_slice()) {
        (_, [only]) => Ok(only),
        // A mean and a deviation beside a wrapped state dict, or a loss in `model`, are not the weights.
        (Some(usual), _) if Some(usual.n_tensors) == largest => Ok(usual),
        _ => Err(weights),
    }
}

/// What a file without a state dict holds, as a clause about it.
pub(super) fn instead(values: &Values) -> String {
    let tensors = |places: &mut dyn Iterator<Item = Place>| {
        places.filter(|&it| entry(values, it).is_some()).count()
    };
    match values.at(values.root) {
        Value::Dict(pairs) => {
            let n = tensors(&mut pairs.iter().map(|pair| pair.1));
            if n > 0 {
                return format!(
                    "its {n} tensors stand under numbers or other keys, not under names"
                );
            }
            let keys: Vec<&str> = pairs
                .iter()
                .filter_map(|pair| values.text(pair.0))
                .take(8)
                .collect();
            format!("it is a dictionary without tensors ({})", keys.join(", "))
        }
        Value::List(items) | Value::Tuple(items) => format!(
            "it is a list of {} values, {} of them tensors, and no tensor has a name",
            items.len(),
            tensors(&mut items.iter().copied())
        ),
        Value::Call { .. } if entry(values, values.root).is_some() => {
            "it is one tensor, which has no name".to_owned()
        }
        _ => "it holds no tensors".to_owned(),
    }
}
