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
        Case {
            from: "[mqtt]",
            to: "[quarantine]\nkeep_days = 0\n[mqtt]",
            expected: "daemon.toml:14: `quarantine.keep_days`: 0 is too small; use 1 or more",
        },
        Case {
            from: "[mqtt]",
            to: "[results]\nreplays_max = 0\n[mqtt]",
            expected: "daemon.toml:14: `results.replays_max`: 0 is too small; use 1 or more",
        },
        Case {
            from: "[mqtt]",
            to: "[privacy]\nidentifiers = \"hash\"\n[mqtt]",
            expected: "daemon.toml:14: `privacy.identifiers`: unknown variant `hash`, expected one of \
                       `none`, `hashed`, `full`",
        },
        Case {
            from: "[mqtt]",
            to: "[mqtt]\nrequests = [\"drain\"]",
            expected: "daemon.toml:14: `mqtt.requests`: unknown variant `drain`, expected `replay` or \
                       `segment`",
        },
        Case {
            from: "[mqtt]",
            to: "[[folder]]\nname = \"mqtt\"\ndirectory = \"a\"\n[mqtt]\nrequests = [\"segment\"]",
            expected: "daemon.toml:17: `mqtt.requests`: two sources are called `mqtt`; rename one",
        },
        Case {
            from: "[mqtt]",
            to: "[mqtt]\nrequest_max_bytes = 1",
            expected: "daemon.toml:14: `mqtt.request_max_bytes`: 1 is out of range; use 1024 to \
                       134217728",
        },
        Case {
            from: "[mqtt]",
            to: "[mqtt]\npassword_file = \"secret\"",
            expected: "daemon.toml:14: `mqtt.password_file`: a password is only sent with a user \
                       name; set `username_file` too",
        },
    ];
    for case in cases {
        assert_eq!(message(&GOOD.replace(case.from, case.to)), case.expected);
    }
}

const PORT: &str = "[[dicom]]\nname = \"pacs\"\n";

#[test]
fn a_port_alone_is_a_source_and_reaches_this_machine_only() {
    let folder = "[[folder]]\nname = \"inbox\"\ndirectory = \"inbox\"\n";
    let text = GOOD.replace(folder, PORT);
    let config = Config::parse(&text, Path::new("daemon.toml")).unwrap();
    assert_eq!(config.sources().collect::<Vec<_>>(), ["pacs"]);
    assert!(config.dicom[0].address.is_loopback());
    let none = message(&GOOD.replace(folder, ""));
    assert!(none.contains("one [[dicom]] to listen at"), "{none}");
}

#[test]
fn keys_of_a_port_are_held_to_their_range() {
    struct Case {
        lines: &'static str,
        expected: &'static str,
    }
    let cases = [
        Case {
            lines: "address = \"scanner.lan\"",
            expected: "daemon.toml:15: `dicom.address`: `scanner.lan` is no IP address; use 127.0.0.1 \
                       for senders on this machine, or the address of the network they are in",
        },
        Case {
            lines: "port = 0",
            expected: "daemon.toml:15: `dicom.port`: 0 is too small; use 1 or more",
        },
        Case {
            lines: "ae_title = \"A TITLE TOO LONG TO BE ONE\"",
            expected: "daemon.toml:15: `dicom.ae_title`: `A TITLE TOO LONG TO BE ONE` must be 1 to 16 \
                       ASCII characters without backslash, and no space at its ends",
        },
        Case {
            lines: "calling_ae_titles = [\"CT1\", \"\"]",
            expected: "daemon.toml:15: `dicom.calling_ae_titles`: `` must be 1 to 16 ASCII characters \
                       without backslash, and no space at its ends",
        },
        Case {
            lines: "associations_max = 0",
            expected: "daemon.toml:15: `dicom.associations_max`: 0 is out of range; use 1 to 256",
        },
        Case {
            lines: "pdu_max_bytes = 100",
            expected: "daemon.toml:15: `dicom.pdu_max_bytes`: 100 is out of range; use 4096 to 1048576",
        },
        Case {
            lines: "idle_timeout_s = 0",
            expected: "daemon.toml:15: `dicom.idle_timeout_s`: 0 is out of range; use 1 to 86400",
        },
        Case {
            lines: "aetitle = \"A\"",
            expected: "daemon.toml:15: unknown key `dicom.aetitle`; did you mean `ae_title`?",
        },
        Case {
            lines: "[[dicom]]\nname = \"inbox\"\nport = 104",
            expected: "daemon.toml:14: `dicom.name`: two sources are called `inbox`; rename one",
        },
        Case {
            lines: "[[dicom]]\nname = \"other\"\naddress = \"0.0.0.0\"",
            expected: "daemon.toml:13: `dicom.port`: two [[dicom]] listen at 11112; give each a port \
                       of its own",
        },
    ];
    for case in cases {
        let section = format!("{PORT}{}\n\n[mqtt]", case.lines);
        assert_eq!(message(&GOOD.replace("[mqtt]", &section)), case.expected);
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
fn folders_that_lie_in_each_other_are_refused() {
    let second = |directory: &str| {
        format!("[[folder]]\nname = \"ct\"\ndirectory = \"{directory}\"\n\n[mqtt]")
    };
    let cases = [
        (
            "directory = \"state\"",
            "directory = \"inbox/state\"",
            "`state.directory`",
        ),
        (
            "directory = \"inbox\"",
            "directory = \"state/in\"",
            "`state.directory`",
        ),
        (
            "directory = \"inbox\"",
            "directory = \".\"",
            "`state.directory`",
        ),
        (
            "directory = \"inbox\"",
            "directory = \"link\"",
            "`state.directory`",
        ),
        (
            "bundle = \"bundle\"",
            "bundle = \"inbox/b.tar\"",
            "`model.bundle`",
        ),
        ("[mqtt]", &second("inbox"), "of folder `inbox`"),
        ("[mqtt]", &second("new/../inbox/sub"), "of folder `inbox`"),
    ];
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("state")).unwrap();
    std::os::unix::fs::symlink("state", folder.path().join("link")).unwrap();
    let path = folder.path().join("daemon.toml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    };
    for (from, to, other) in cases {
        let error = read(&GOOD.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains("`folder.directory`"), "{to}: {error}");
        assert!(
            error.contains(other) && error.contains("side by side"),
            "{to}: {error}"
        );
    }
    read(&GOOD.replace("[mqtt]", &second("inbox-2"))).unwrap();
}

/// Every key that a configuration can have.
fn full() -> toml::Value {
    let credentials = "[mqtt]\nusername_file = \"user\"\npassword_file = \"password\"";
    let text = GOOD.replace("[mqtt]", &format!("{PORT}{credentials}"));
    let config = Config::parse(&text, Path::new("daemon.toml")).unwrap();
    toml::Value::try_from(&config).unwrap()
}

/// Compares values, and finds keys that the reference neither has nor shows in a comment.
fn compare(
    at: &str,
    full: &toml::Value,
    reference: &toml::Value,
    text: &str,
    missing: &mut Vec<String>,
) {
    let site = [
        "model.bundle",
        "state.directory",
        "folder.name",
        "folder.directory",
        "dicom.name",
        "mqtt.host",
        "node",
    ];
    let Some(table) = full.as_table() else {
        assert!(
            site.contains(&at) || full == reference,
            "{at} is not the default"
        );
        return;
    };
    for (key, value) in table {
        let at = if at.is_empty() {
            key.clone()
        } else {
            format!("{at}.{key}")
        };
        match (value, reference.get(key)) {
            (toml::Value::Array(value), Some(reference))
                if value.iter().any(toml::Value::is_table) =>
            {
                compare(&at, &value[0], &reference[0], text, missing);
            }
            (value, Some(reference)) => compare(&at, value, reference, text, missing),
            (_, None) if text.contains(&format!("\n# {key} = ")) => {}
            (_, None) => missing.push(at),
        }
    }
}

/// With the section that the file shows in comments, as its reader would turn it on.
fn with_port(text: &str) -> String {
    let (before, section) = text.split_once("# [[dicom]]\n").unwrap();
    let (section, after) = section.split_once("\n\n").unwrap();
    let turn_on = |line: &str| match line.strip_prefix("# ") {
        Some(key)
            if key
                .split_once(" = ")
                .is_some_and(|(key, _)| !key.contains(' ')) =>
        {
            key.to_owned()
        }
        _ => line.to_owned(),
    };
    let section: Vec<String> = section.lines().map(turn_on).collect();
    format!("{before}[[dicom]]\n{}\n\n{after}", section.join("\n"))
}

#[test]
fn the_reference_file_shows_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/daemon.toml");
    Config::read(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let text = with_port(&text);
    Config::parse(&text, &path).unwrap();
    let reference: toml::Value = toml::from_str(&text).unwrap();
    let mut missing = Vec::new();
    compare("", &full(), &reference, &text, &mut missing);
    assert!(missing.is_empty(), "undocumented: {missing:?}");
}
