use std::path::Path;

use super::Config;

const GOOD: &str = r#"node = "box-1"

[model]
bundle = "bundle"

[state]
directory = "state"

[[folder]]
name = "inbox"
directory = "inbox"

[mqtt]
host = "127.0.0.1"
"#;

fn message(text: &str) -> String {
    Config::parse(text, Path::new("daemon.toml"))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_minimal_file_is_enough() {
    let config = Config::parse(GOOD, Path::new("daemon.toml")).unwrap();
    assert_eq!(config.mqtt.inline_max_bytes, 120_000);
    assert_eq!(config.mqtt.root(&config.node), "scanside/v1/box-1/");
}

#[test]
fn paths_are_relative_to_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("daemon.toml");
    std::fs::write(&path, GOOD).unwrap();
    let config = Config::read(&path).unwrap();
    assert_eq!(config.state.directory, folder.path().join("state"));
}

#[test]
fn messages_name_line_key_and_remedy() {
    struct Case {
        from: &'static str,
        to: &'static str,
        expected: &'static str,
    }
    let cases = [
        Case {
            from: "host = ",
            to: "keepalive_s = 10\nhost = ",
            expected: "daemon.toml:14: unknown key `mqtt.keepalive_s`; did you mean `keep_alive_s`?",
        },
        Case {
            from: "[mqtt]",
            to: "[mqtt]\nport = \"1883\"",
            expected: "daemon.toml:14: `mqtt.port`: invalid type: string \"1883\", expected u16",
        },
        Case {
            from: "host = \"127.0.0.1\"",
            to: "host = \"broker.lan\"",
            expected: "daemon.toml:14: `mqtt.host`: `broker.lan` is another machine and the \
                       connection is not encrypted; set `allow_plaintext = true` in [mqtt] if the \
                       network is trusted",
        },
        Case {
            from: "box-1",
            to: "Box 1",
            expected: "daemon.toml:1: `node`: `Box 1` must be 1 to 32 of a-z, 0-9 and `-`",
        },
        Case {
            from: "bundle = \"bundle\"\n",
            to: "",
            expected: "daemon.toml:3: `model`: missing key `bundle`",
        },
        Case {
            from: "name = \"inbox\"",
            to: "name = \"inbox\"\npoll_interval_ms = 1",
            expected: "daemon.toml:11: `folder.poll_interval_ms`: 1 is too small; use 10 or more",
        },
    ];
    for case in cases {
        assert_eq!(message(&GOOD.replace(case.from, case.to)), case.expected);
    }
}

#[test]
fn a_key_unlike_all_others_lists_them() {
    let text = GOOD.replace("[model]", "[model]\nzzzzzzzzzzzz = 1");
    assert_eq!(
        message(&text),
        "daemon.toml:4: unknown key `model.zzzzzzzzzzzz`; known here: bundle"
    );
}

#[test]
fn the_reference_file_parses_and_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/daemon.toml");
    let reference = Config::read(&path).unwrap();
    let minimal = Config::parse(GOOD, Path::new("daemon.toml")).unwrap();
    let table = |config: &Config| toml::Value::try_from(config).unwrap();
    let (reference, minimal) = (table(&reference), table(&minimal));
    for section in ["decode", "pipeline"] {
        assert_eq!(reference[section], minimal[section]);
    }
    for (section, skip) in [("mqtt", "host"), ("state", "directory")] {
        for (key, value) in minimal[section].as_table().unwrap() {
            if key != skip {
                assert_eq!(reference[section][key], *value, "{section}.{key}");
            }
        }
    }
}
