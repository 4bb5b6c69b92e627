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
            expected: "daemon.toml:14: `mqtt.host`: `broker.lan` is beyond this machine and the \
                       connection is not encrypted; add [mqtt.tls], or set `allow_plaintext = true` in \
                       [mqtt] if the network is trusted",
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
    assert!(
        none.contains("one [[dicom]] or [http] to listen at"),
        "{none}"
    );
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
            lines: "[[dicom]]\nname = \"other\"\naddress = \"0.0.0.0\"\nallow_plaintext = true",
            expected: "daemon.toml:13: `dicom.port`: two [[dicom]] listen at 11112; give each a port \
                       of its own",
        },
    ];
    for case in cases {
        let section = format!("{PORT}{}\n\n[mqtt]", case.lines);
        assert_eq!(message(&GOOD.replace("[mqtt]", &section)), case.expected);
    }
}

const SEG: &str = r#"
[seg]
directory = "segmentations"

[seg.send_to]
host = "127.0.0.1"
called_ae_title = "PACS"
"#;

#[test]
fn segmentations_have_somewhere_to_go() {
    let good = format!("{GOOD}{SEG}");
    let seg = Config::parse(&good, Path::new("daemon.toml")).unwrap().seg;
    assert_eq!(seg.unwrap().send_to.unwrap().port, 11_112);
    for (from, to, expected) in [
        (
            SEG,
            "\n[seg]\n",
            "daemon.toml:16: `seg`: name a `directory` to write to, a [seg.send_to] to send to, or both",
        ),
        (
            "directory = \"segmentations\"",
            "quiet_s = 0",
            "daemon.toml:17: `seg.quiet_s`: 0 is out of range; use 1 to 86400",
        ),
        (
            "called_ae_title",
            "calling_ae_title",
            "daemon.toml:19: `seg.send_to`: missing key `called_ae_title`",
        ),
        (
            "called_ae_title = \"PACS\"",
            "called_ae_title = \"\"",
            "daemon.toml:21: `seg.send_to.called_ae_title`: `` must be 1 to 16 ASCII characters without \
             backslash, and no space at its ends",
        ),
        (
            "host = \"127.0.0.1\"\ncalled",
            "host = \"pacs\"\ncalled",
            "daemon.toml:20: `seg.send_to.host`: `pacs` is another machine and the connection is not \
             encrypted; set `allow_plaintext = true` in [seg.send_to] if the network is trusted",
        ),
    ] {
        assert_eq!(message(&good.replace(from, to)), expected);
    }
}

#[test]
fn what_leaves_this_machine_is_encrypted_or_said_not_to_be() {
    struct Case {
        lines: &'static str,
        expected: &'static str,
    }
    let cases = [
        Case {
            lines: "[[dicom]]\nname = \"pacs\"\naddress = \"10.0.0.1\"",
            expected: "daemon.toml:15: `dicom.address`: `10.0.0.1` is beyond this machine and the \
                       connection is not encrypted; add [dicom.tls], or set `allow_plaintext = true` in \
                       [dicom] if the network is trusted",
        },
        Case {
            lines: "[http]\nlisten = \"0.0.0.0:80\"",
            expected: "daemon.toml:14: `http.listen`: `0.0.0.0` is beyond this machine and the connection \
                       is not encrypted; add [http.tls], or set `allow_plaintext = true` in [http] if the \
                       network is trusted",
        },
        Case {
            lines: "[http]\nlisten = \"[::]:80\"\nallow_plaintext = true",
            expected: "daemon.toml:14: `http.listen`: `::` is reached from other machines, and everybody \
                       there could send images; set `token_file`, or `ca_file` in [http.tls] to ask \
                       clients for certificates",
        },
        Case {
            lines: "[http]\nlisten = \"localhost\"",
            expected: "daemon.toml:14: `http.listen`: `localhost` is no IP address with a port; use \
                       127.0.0.1:8790 for this machine alone, or the address of the network that the \
                       senders are in",
        },
        Case {
            lines: "[http.tls]\ncertificate_file = \"box.pem\"",
            expected: "daemon.toml:13: `http.tls`: a server shows a certificate; set `certificate_file` \
                       and `key_file`",
        },
        Case {
            lines: "[mqtt.tls]\ncertificate_file = \"box.pem\"",
            expected: "daemon.toml:13: `mqtt.tls`: nobody vouches for the broker; set `ca_file` to the \
                       certificate of its authority, or to /etc/ssl/certs/ca-certificates.crt for the \
                       public ones",
        },
    ];
    for case in cases {
        let section = format!("{}\n\n[mqtt]", case.lines);
        assert_eq!(message(&GOOD.replace("[mqtt]", &section)), case.expected);
    }
    let tls = "certificate_file = \"box.pem\"\nkey_file = \"box.key\"";
    for lines in [
        format!("[[dicom]]\nname = \"pacs\"\naddress = \"10.0.0.1\"\n[dicom.tls]\n{tls}"),
        format!("[http]\nlisten = \"0.0.0.0:80\"\n[http.tls]\nca_file = \"ca.pem\"\n{tls}"),
        "[http]\nlisten = \"0.0.0.0:80\"\nallow_plaintext = true\ntoken_file = \"t\"".to_owned(),
        "[mqtt.tls]\nca_file = \"ca.pem\"".to_owned(),
    ] {
        let text = GOOD.replace("[mqtt]", &format!("{lines}\n\n[mqtt]"));
        Config::parse(&text, Path::new("daemon.toml")).unwrap();
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
        (
            "[mqtt]",
            "[seg]\ndirectory = \"inbox/out\"\n\n[mqtt]",
            "`seg.directory`",
        ),
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
    let tls = "ca_file = \"ca.pem\"\ncertificate_file = \"box.pem\"\nkey_file = \"box.key\"\n";
    let credentials = format!(
        "[dicom.tls]\n{tls}[http]\ntoken_file = \"token\"\n[http.tls]\n{tls}[mqtt.tls]\n{tls}\
         [mqtt]\nusername_file = \"user\"\npassword_file = \"password\""
    );
    let models = "[[slot]]\nname = \"heart\"\nbundle = \"heart\"\n[[route]]\nsource = \"pacs\"\n\
                  when = { Modality = \"MR\" }\nslot = \"none\"\nreason = \"why\"\n";
    let text = GOOD.replace("[mqtt]", &format!("{PORT}{credentials}")) + "\n" + models + SEG;
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
        "seg.directory",
        "seg.send_to.host",
        "seg.send_to.called_ae_title",
        "slot.name",
        "slot.bundle",
        "route.source",
        "route.when.Modality",
        "route.slot",
        "route.reason",
        "mqtt.host",
        "node",
    ];
    let Some(table) = full.as_table() else {
        assert!(
            site.contains(&at) || at.ends_with("_file") || full == reference,
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

/// With the sections that the file shows in comments, as its reader would turn them on.
fn with_sections(text: &str) -> String {
    let turn_on = |line: &str| {
        let key = line.strip_prefix("# ")?;
        let header = key.starts_with('[');
        let value = key.split_once(" = ");
        (header || value.is_some_and(|(key, _)| !key.contains(' '))).then(|| key.to_owned())
    };
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        inside = line.starts_with("# [") || inside && !line.is_empty();
        let on = turn_on(line).filter(|_| inside);
        lines.push(on.unwrap_or_else(|| line.to_owned()));
    }
    lines.join("\n")
}

#[test]
fn the_reference_file_shows_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/daemon.toml");
    Config::read(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let text = with_sections(&text);
    Config::parse(&text, &path).unwrap();
    let reference: toml::Value = toml::from_str(&text).unwrap();
    let mut missing = Vec::new();
    compare("", &full(), &reference, &text, &mut missing);
    assert!(missing.is_empty(), "undocumented: {missing:?}");
}

#[test]
fn rules_that_cannot_mean_what_they_say_are_named() {
    const CT: &str = "[[route]]\nwhen = { Modality = \"CT\" }\nslot = \"default\"\n";
    let key = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let cases = [
        (
            "[[route]]\nwhen = { Modalty = \"CT\" }\nslot = \"default\"".to_owned(),
            "`route.when`: rule 1: `Modalty` is no DICOM keyword; did you mean `Modality`?",
        ),
        (
            "[[route]]\nwhen = { PixelData = \"CT\" }\nslot = \"default\"".to_owned(),
            "rule 1: `PixelData` is not part of",
        ),
        (
            "[[route]]\nwhen = { Modality = [] }\nslot = \"default\"".to_owned(),
            "rule 1: `Modality` has an empty pattern",
        ),
        (
            "[[route]]\nwhen = { Modality = 3 }\nslot = \"default\"".to_owned(),
            "use a text or a list of texts",
        ),
        (
            format!("{CT}[[route]]\nslot = \"heart\""),
            "rule 2: no slot is called `heart`; known are default and none",
        ),
        (
            format!("{CT}[[route]]\nsource = \"pacs\"\nslot = \"default\""),
            "rule 2: no source is called `pacs`; known are inbox",
        ),
        (
            format!(
                "{CT}[[route]]\nsource = \"inbox\"\nwhen = {{ Modality = \"ct\", ImageType = \"*\" }}\n\
                 slot = \"default\""
            ),
            "`route`: rule 2 is never reached: rule 1 takes all of its images",
        ),
        (
            format!("[[route]]\nslot = \"default\"\n{CT}"),
            "rule 2 is never reached: rule 1",
        ),
        (
            "[[route]]\nslot = \"none\"".to_owned(),
            "rule 1: with slot = \"none\" say why in `reason`",
        ),
        (
            "[[route]]\nslot = \"default\"\nreason = \"x\"".to_owned(),
            "rule 1: only rules with slot = \"none\" have a reason",
        ),
        (
            "[[slot]]\nname = \"default\"\nbundle = \"b\"".to_owned(),
            "`slot.name`: `default` has a meaning of its own",
        ),
        (
            "[[slot]]\nname = \"a\"\nbundle = \"b\"\n[[slot]]\nname = \"a\"\nbundle = \"b\""
                .to_owned(),
            "two slots are called `a`",
        ),
        (
            "[models]\ntrusted_keys = [\"minisign.pub\"]".to_owned(),
            "`models.trusted_keys`: `minisign.pub` is no minisign public key",
        ),
        (
            format!("[models]\ntrusted_keys = [\"{key}\"]\nversions_max = 2"),
            "`models.versions_max`: 2 is out of range",
        ),
    ];
    for (lines, expected) in cases {
        let words = message(&GOOD.replace("[mqtt]", &format!("{lines}\n[mqtt]")));
        assert!(words.contains(expected), "{expected}: {words}");
    }
    // The other way round both are reached: the narrow one is asked first.
    let narrow =
        "[[route]]\nwhen = { Modality = \"CT\", ImageType = \"AXIAL\" }\nslot = \"default\"\n";
    let text = GOOD.replace("[mqtt]", &format!("{narrow}{CT}[mqtt]"));
    Config::parse(&text, Path::new("daemon.toml")).unwrap();
}
