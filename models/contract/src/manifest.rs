//! `manifest.json` of a bundle: everything the daemon needs, nothing guessed from file names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::geometry::InputRules;
use crate::intensity::Window;

pub const SCHEMA: &str = "scanside-bundle/1";
/// This file itself; it lists the others.
pub const MANIFEST: &str = "manifest.json";
pub const GOLDEN_IMAGE: &str = "golden.tif";
pub const GOLDEN_MASK: &str = "golden.rle.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: String,
    pub name: String,
    /// Semantic version of this bundle.
    pub version: String,
    /// Monotone counter: a daemon refuses a lower one than the last it accepted.
    pub counter: u64,
    pub kind: Kind,
    /// Foreground classes in ascending id order; id 0 is background and not listed.
    pub classes: Vec<Class>,
    pub input: InputRules,
    pub output: Output,
    pub precision: Precision,
    pub opset: i64,
    pub licence: String,
    /// File name in the bundle -> hex SHA-256.
    pub files: BTreeMap<String, String>,
    pub provenance: Provenance,
    /// Hex SHA-256 over this manifest's JSON with this field empty: finds a flipped byte.
    pub digest: String,
}

/// The graphs of a bundle and the tensors that matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// One graph: image (1, 3, size, size) f32 -> class logits (1, classes + 1, side, side) f32.
    Automatic {
        graph: String,
        input: String,
        output: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    pub id: u8,
    pub label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snomed: Option<String>,
    /// Overlay colour, sRGB.
    pub color: [u8; 3],
}

/// What the graph's output means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Side of the square logits, px.
    pub side: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    F32,
    Int8,
}

/// Where a bundle comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Command line that made the bundle.
    pub command: String,
    /// Hex SHA-256 of the resolved recipe.
    pub recipe_digest: String,
    /// Fingerprint of the training data.
    pub data_fingerprint: String,
    pub teacher: String,
    /// Measured foreground Dice: label of the row ("f32 tract test" ...) -> value.
    pub dice: BTreeMap<String, f64>,
    pub code_version: String,
}

/// What is wrong with a manifest, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("manifest.json: {0}; export the bundle again")]
    Json(#[from] serde_json::Error),
    #[error(
        "manifest.json: schema is {found:?}, this program reads {SCHEMA:?}; use the program version that made the bundle, or export it again"
    )]
    Schema { found: String },
    #[error(
        "manifest.json: digest is {found}, the content has {expected}; copy the bundle again, it is damaged or was edited"
    )]
    Digest { expected: String, found: String },
    #[error("manifest.json: {field}: {problem}; {remedy}")]
    Field {
        field: &'static str,
        problem: String,
        remedy: &'static str,
    },
}

/// Just enough to tell another schema from a broken manifest.
#[derive(Deserialize)]
struct Header {
    schema: String,
}

impl Manifest {
    /// Reads a manifest and checks schema, digest and meaning.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let header: Header = serde_json::from_slice(json)?;
        if header.schema != SCHEMA {
            return Err(ManifestError::Schema {
                found: header.schema,
            });
        }
        let manifest: Self = serde_json::from_slice(json)?;
        manifest.verify_digest()?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// The same manifest with its digest filled in; call it last.
    #[must_use]
    pub fn seal(mut self) -> Self {
        self.digest = self.content_digest();
        self
    }

    /// Is `digest` that of the content?
    pub fn verify_digest(&self) -> Result<(), ManifestError> {
        let expected = self.content_digest();
        if self.digest == expected {
            return Ok(());
        }
        Err(ManifestError::Digest {
            expected,
            found: self.digest.clone(),
        })
    }

    /// The file's text: indented JSON with a final line break.
    pub fn to_json(&self) -> String {
        let json = serde_json::to_string_pretty(self);
        json.expect("a manifest has string keys only") + "\n"
    }

    /// Checks that the fields make sense together; [`Manifest::parse`] does this too.
    pub fn validate(&self) -> Result<(), ManifestError> {
        validate_classes(&self.classes)?;
        validate_input(&self.input)?;
        self.validate_output()?;
        self.validate_files()
    }

    fn content_digest(&self) -> String {
        let content = Self {
            digest: String::new(),
            ..self.clone()
        };
        let json = serde_json::to_vec(&content).expect("a manifest has string keys only");
        hex::encode(Sha256::digest(json))
    }

    fn validate_output(&self) -> Result<(), ManifestError> {
        let size = self.input.size;
        if !(1..=size).contains(&self.output.side) {
            return Err(ManifestError::Field {
                field: "output.side",
                problem: format!("{} px with an input of {size} px", self.output.side),
                remedy: "use the side of the graph's logits, at most input.size",
            });
        }
        Ok(())
    }

    fn validate_files(&self) -> Result<(), ManifestError> {
        let fail = |problem, remedy| {
            Err(ManifestError::Field {
                field: "files",
                problem,
                remedy,
            })
        };
        for (name, digest) in &self.files {
            if !is_plain_name(name) || name == MANIFEST {
                let remedy = "name files inside the bundle, without a path, and not the manifest";
                return fail(format!("{name:?} is not a plain file name"), remedy);
            }
            let hex_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if digest.len() != 64 || !digest.bytes().all(hex_digit) {
                let remedy = "write 64 lower-case hexadecimal digits";
                return fail(format!("{name}: {digest:?} is no SHA-256"), remedy);
            }
        }
        let Kind::Automatic { graph, .. } = &self.kind;
        for name in [graph, GOLDEN_IMAGE, GOLDEN_MASK] {
            if !self.files.contains_key(name) {
                let remedy =
                    "list the graph that kind names and the golden pair, with their digests";
                return fail(format!("{name:?} is missing"), remedy);
            }
        }
        Ok(())
    }
}

/// Ids 1, 2, 3 ... and a label of its own for each class.
pub fn validate_classes(classes: &[Class]) -> Result<(), ManifestError> {
    let fail = |problem| {
        let remedy = "number the foreground classes 1, 2, 3 and give each its own label";
        Err(ManifestError::Field {
            field: "classes",
            problem,
            remedy,
        })
    };
    if classes.is_empty() {
        return fail("no foreground class".into());
    }
    for (index, class) in classes.iter().enumerate() {
        if usize::from(class.id) != index + 1 {
            return fail(format!("id {} stands where {} is due", class.id, index + 1));
        }
        if class.label.trim().is_empty() {
            return fail(format!("class {} has no label", class.id));
        }
        if classes[..index]
            .iter()
            .any(|other| other.label == class.label)
        {
            return fail(format!("label {:?} stands twice", class.label));
        }
    }
    Ok(())
}

/// A size that every encoder takes, and a window that can be applied.
pub fn validate_input(input: &InputRules) -> Result<(), ManifestError> {
    let size = input.size;
    if !(64..=2048).contains(&size) || !size.is_multiple_of(64) {
        return Err(ManifestError::Field {
            field: "input.size",
            problem: format!("{size} px"),
            remedy: "use a multiple of 64 from 64 to 2048",
        });
    }
    let window_fits = match input.window {
        Window::None | Window::MinMax => true,
        Window::Percentile { low, high } => 0.0 <= low && low < high && high <= 100.0,
        Window::Level { center, width } => center.is_finite() && width.is_finite() && width >= 1.0,
    };
    if !window_fits {
        return Err(ManifestError::Field {
            field: "input.window",
            problem: format!("{:?}", input.window),
            remedy: "use percentiles 0 <= low < high <= 100, or a finite level of width 1 or more",
        });
    }
    Ok(())
}

/// A name that stays inside the bundle's directory on any system.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let forbidden = |c: char| matches!(c, '/' | '\\' | ':') || c.is_control();
    !name.is_empty() && !name.starts_with('.') && name.len() <= 255 && !name.contains(forbidden)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::geometry::Fit;
    use crate::intensity::Normalize;

    pub(crate) fn sample() -> Manifest {
        let class = |id, label: &str| Class {
            id,
            label: label.into(),
            snomed: None,
            color: [9; 3],
        };
        let graph = "graph.onnx".to_string();
        Manifest {
            schema: SCHEMA.into(),
            name: "cine".into(),
            version: "1.0.0".into(),
            counter: 4,
            kind: Kind::Automatic {
                graph: graph.clone(),
                input: "image".into(),
                output: "logits".into(),
            },
            classes: vec![class(1, "cavity"), class(2, "myocardium")],
            input: InputRules {
                size: 256,
                fit: Fit::LongestSidePad,
                window: Window::Percentile {
                    low: 0.5,
                    high: 99.5,
                },
                normalize: Normalize::MinMax,
            },
            output: Output { side: 64 },
            precision: Precision::Int8,
            opset: 17,
            licence: "Apache-2.0".into(),
            files: [&graph, GOLDEN_IMAGE, GOLDEN_MASK]
                .map(|name| (name.to_owned(), "0".repeat(64)))
                .into(),
            provenance: Provenance {
                command: "trainer export".into(),
                recipe_digest: "ab".into(),
                data_fingerprint: "cd".into(),
                teacher: "sam".into(),
                // Neither is a short decimal: both must come back bit for bit.
                dice: [("a".into(), 0.1 + 0.2), ("b".into(), 1.0 / 3.0)].into(),
                code_version: "0".into(),
            },
            digest: String::new(),
        }
    }

    #[test]
    fn a_sealed_manifest_comes_back() {
        let sealed = sample().seal();
        assert_eq!(
            Manifest::parse(sealed.to_json().as_bytes()).unwrap(),
            sealed
        );
    }

    #[test]
    fn every_flipped_bit_outside_white_space_is_found() {
        let sealed = sample().seal();
        let json = sealed.to_json().into_bytes();
        for at in (0..json.len()).filter(|&at| !json[at].is_ascii_whitespace()) {
            let mut damaged = json.clone();
            damaged[at] ^= 2;
            // The last digit of a long number may mean the same number: then nothing has changed.
            let harmless = Manifest::parse(&damaged).is_ok_and(|found| found == sealed);
            assert!(!harmless || json[at].is_ascii_digit(), "byte {at}");
            assert!(harmless || Manifest::parse(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn errors_name_field_and_remedy() {
        type Edit = fn(&mut Manifest);
        let cases: [(Edit, &str); 14] = [
            (|m| m.classes.clear(), "classes: no foreground"),
            (
                |m| m.classes[1].id = 3,
                "classes: id 3 stands where 2 is due",
            ),
            (|m| m.classes.reverse(), "classes: id 2 stands where 1"),
            (|m| m.classes[1].label = "cavity".into(), "stands twice"),
            (
                |m| m.input.size = 100,
                "input.size: 100 px; use a multiple of 64",
            ),
            (|m| m.input.size = 0, "input.size"),
            (|m| m.input.size = 4096, "input.size"),
            (
                |m| {
                    m.input.window = Window::Level {
                        center: 1.0,
                        width: 0.0,
                    }
                },
                "input.window",
            ),
            (|m| m.output.side = 300, "output.side: 300 px"),
            (|m| m.files.clear(), "files: \"graph.onnx\" is missing"),
            (
                |m| drop(m.files.remove(GOLDEN_MASK)),
                "files: \"golden.rle.json\" is missing",
            ),
            (
                |m| drop(m.files.insert("../a".into(), "0".repeat(64))),
                "not a plain file name",
            ),
            (
                |m| drop(m.files.insert("a".into(), "0".into())),
                "no SHA-256",
            ),
            (
                |m| m.schema = "scanside-bundle/2".into(),
                "schema is \"scanside-bundle/2\"",
            ),
        ];
        for (edit, expected) in cases {
            let mut manifest = sample();
            edit(&mut manifest);
            let error = Manifest::parse(manifest.seal().to_json().as_bytes()).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(expected) && text.contains("; "),
                "{expected}: {text}"
            );
        }
        let unsealed = Manifest::parse(sample().to_json().as_bytes()).unwrap_err();
        assert!(unsealed.to_string().contains("damaged"), "{unsealed}");
        let missing = Manifest::parse(br#"{"schema":"scanside-bundle/1"}"#).unwrap_err();
        assert!(
            missing.to_string().contains("missing field `name`"),
            "{missing}"
        );
    }
}
