//! The architecture as rules: what a crate may link, where a name may stand, who imports whom, how long files and
//! functions may be.

mod imports;
mod source;
mod structure;

use std::path::Path;

use tests::{files, linked_crates, paths, read};

/// `*` at the end stands for any rest.
fn fits(pattern: &str, name: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == name, |start| name.starts_with(start))
}

/// What a package links.
struct Links {
    package: &'static str,
    flags: &'static [&'static str],
    /// Proof that the tree was read.
    always: &'static str,
    never: &'static [&'static str],
    because: &'static str,
}

const LINKS: [Links; 7] = [
    Links {
        package: "contract",
        flags: &[],
        always: "serde",
        never: &[
            "candle*", "tract*", "tokio", "rumqtt*", "dicom*", "image", "rand*", "nets",
        ],
        because: "the contract is pure; both programs and any other one can use it",
    },
    Links {
        package: "nets",
        flags: &[],
        always: "candle-core",
        never: &[
            "tract*",
            "prost*",
            "candle-onnx",
            "dicom*",
            "nifti",
            "tokio",
            "rumqtt*",
            "segmenter",
        ],
        because: "networks know tensors, not data sets, ONNX or the daemon",
    },
    Links {
        package: "phantom",
        flags: &[],
        always: "contract",
        never: &["candle*", "nets", "tract*", "tokio", "rumqtt*", "segmenter"],
        because: "the phantom makes images and labels, nothing else",
    },
    Links {
        package: "segmenter",
        flags: &[],
        always: "tract-onnx",
        never: &["candle*", "nets", "tokio", "rumqtt*", "redb", "phantom"],
        because: "the path that `trainer eval` and the daemon share knows neither of them",
    },
    Links {
        package: "trainer",
        flags: &[],
        always: "candle-core",
        never: &[
            "rumqtt*",
            "tokio",
            "hyper*",
            "reqwest",
            "ureq",
            "rustls*",
            "native-tls",
            "daemon",
        ],
        because: "the trainer's processes talk to each other, through sockets of std, and to nobody else",
    },
    Links {
        package: "daemon",
        flags: &[],
        always: "rumqttc",
        never: &[
            "candle*",
            "nets",
            "trainer",
            // Not openssl-probe, which only knows where a system keeps its certificates.
            "openssl",
            "openssl-sys",
            "native-tls",
            "aws-lc*",
            "openjpeg*",
            "charls*",
        ],
        because: "the daemon is small and cross-compiles with a C compiler only",
    },
    Links {
        package: "daemon",
        flags: &["--no-default-features"],
        always: "tract-onnx",
        never: &["candle*", "nets", "phantom", "rumqttd"],
        because: "a device has no use for the demo's phantom and broker",
    },
];

#[test]
fn packages_link_what_they_may() {
    let mut findings = Vec::new();
    for rule in &LINKS {
        let linked = linked_crates(rule.package, rule.flags);
        assert!(
            linked.contains(rule.always),
            "{} does not link {}: {linked:?}",
            rule.package,
            rule.always
        );
        for name in &linked {
            if rule.never.iter().any(|pattern| fits(pattern, name)) {
                findings.push(format!(
                    "{} {} links {name}: {}; `cargo tree -p {} -i {name}` says through what",
                    rule.package,
                    rule.flags.join(" "),
                    rule.because,
                    rule.package
                ));
            }
        }
    }
    assert!(
        findings.is_empty(),
        "take these dependencies out:\n{}",
        findings.join("\n")
    );
}

/// A word that stands in some places only; `homes` are starts of paths.
struct Home {
    word: &'static str,
    inside: &'static str,
    homes: &'static [&'static str],
    because: &'static str,
}

const HOMES: [Home; 12] = [
    Home {
        word: "tract_onnx::prelude",
        inside: "",
        homes: &["models/segmenter/src/infer"],
        because: "one place runs graphs, so evaluation and daemon cannot differ",
    },
    Home {
        word: "tract_onnx::",
        inside: "",
        homes: &[
            "models/segmenter/src/infer",
            "trainer/src/onnx",
            "trainer/src/quantize",
        ],
        because: "tract runs in segmenter; the trainer only writes its ONNX message types",
    },
    Home {
        word: "rumqttc::",
        inside: "",
        homes: &[
            "daemon/src/mqtt/connection",
            "daemon/src/mqtt/requests/client.rs",
            "daemon/src/demo/",
        ],
        because: "the client library is a pipe that can be exchanged; the outbox is the truth",
    },
    Home {
        word: "rustls::",
        inside: "",
        homes: &[
            "daemon/src/tls.rs",
            "daemon/src/tls/credentials.rs",
            "daemon/src/intake/http/serve.rs",
            "daemon/src/mqtt/connection",
            "daemon/src/intake/dicom/",
        ],
        because: "one place says whom to trust; the protocols only use what it made",
    },
    Home {
        word: "axum::",
        inside: "",
        homes: &["daemon/src/intake/http"],
        because: "HTTP is one door to the box, not the way its parts talk",
    },
    Home {
        word: "prometheus_client::",
        inside: "",
        homes: &["daemon/src/status/metrics.rs"],
        because: "names and units of metrics are read on one screen",
    },
    Home {
        word: "dicom_",
        inside: "",
        homes: &[
            "models/segmenter/src/decode",
            "models/segmenter/src/seg",
            "models/segmenter/tests/",
            "models/phantom/",
            "daemon/src/intake/dicom",
            "daemon/src/seg/send/association.rs",
            "daemon/src/segment/tests.rs",
            "tests/faults/",
        ],
        because: "one place each decodes images, makes segmentations, and speaks DICOM's protocol",
    },
    Home {
        word: "std::fs",
        inside: "models/contract/src/",
        homes: &["models/contract/src/bundle.rs"],
        because: "the contract does no I/O beyond reading a bundle",
    },
    Home {
        word: "std::time",
        inside: "models/contract/src/",
        homes: &[],
        because: "the contract has no clock",
    },
    Home {
        word: "std::env",
        inside: "models/contract/src/",
        homes: &[],
        because: "the contract is a function of its arguments",
    },
    Home {
        word: "anyhow::",
        inside: "models/",
        homes: &[],
        because: "libraries have typed errors: write a thiserror enum",
    },
    Home {
        word: "unbounded_channel",
        inside: "",
        homes: &[],
        because: "every queue has a limit, and the limit is a named key",
    },
];

#[test]
fn names_stand_where_they_belong() {
    let mut findings = Vec::new();
    for path in source_files() {
        for (number, line) in read(&path).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for home in &HOMES {
                let elsewhere = path.starts_with(home.inside)
                    && !home.homes.iter().any(|start| path.starts_with(start));
                if elsewhere && code.contains(home.word) {
                    let (word, because) = (home.word, home.because);
                    findings.push(format!("{path}:{}: {word}: {because}", number + 1));
                }
            }
        }
    }
    assert!(
        findings.is_empty(),
        "move these to where they belong:\n{}",
        findings.join("\n")
    );
}

#[test]
fn the_daemon_says_anyhow_in_main_only() {
    let allowed = "daemon/src/main.rs";
    let found: Vec<String> = files("rs")
        .into_iter()
        .filter(|path| path.starts_with("daemon/src/") && path != allowed)
        .filter(|path| read(path).contains("anyhow::"))
        .collect();
    assert!(
        found.is_empty(),
        "write a thiserror enum instead of anyhow: {found:?}"
    );
}

#[test]
fn names_say_what_is_inside() {
    let vague = [
        "utils",
        "util",
        "helpers",
        "common",
        "misc",
        "manager",
        "types",
        "constants",
        "prelude",
    ];
    let found: Vec<String> = paths()
        .into_iter()
        .filter(|path| {
            let stem = Path::new(path).file_stem().and_then(|stem| stem.to_str());
            let source = Path::new(path)
                .extension()
                .is_none_or(|extension| extension == "rs");
            source && stem.is_some_and(|stem| vague.contains(&stem))
        })
        .collect();
    assert!(
        found.is_empty(),
        "name these after the noun of their stage: {found:?}"
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Written in two parts, so that this file does not find itself.
    let words = [
        concat!("tod", "o!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X"),
        concat!("#[ign", "ore"),
    ];
    let mut findings = Vec::new();
    for path in files("rs")
        .into_iter()
        .chain(files("py"))
        .chain(files("toml"))
    {
        for (number, line) in read(&path).lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                findings.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    assert!(
        findings.is_empty(),
        "finish these or take them out:\n{}",
        findings.join("\n")
    );
}

/// Rust files but this one, which names everything.
fn source_files() -> Vec<String> {
    files("rs")
        .into_iter()
        .filter(|path| path != "tests/tidy.rs")
        .collect()
}
