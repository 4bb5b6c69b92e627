mod reference;
mod sections;

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
fn all_wrong_keys_are_named_at_once() {
    let text = GOOD
        .replace("bundle =", "bundel =")
        .replace("name = \"inbox\"", "name = \"inbox\"\nstable = 10")
        .replace(
            "[mqtt]",
            "[http]\ntoken = \"x\"\nconnections_max = \"4\"\n[http.tsl]\nca_file = \"a\"\n\n[mqtt]\n\
             allow_plaintext = \"true\"\nbase = 7",
        );
    let expected = "daemon.toml:3: `model`: missing key `bundle`\n\
                    daemon.toml:4: unknown key `model.bundel`; did you mean `bundle`?\n\
                    daemon.toml:11: unknown key `folder.stable`; did you mean `stable_ms`?\n\
                    daemon.toml:15: unknown key `http.token`; did you mean `token_file`?\n\
                    daemon.toml:16: `http.connections_max`: write the number without quotes: 4\n\
                    daemon.toml:17: unknown key `http.tsl`; did you mean `tls`?\n\
                    daemon.toml:21: `mqtt.allow_plaintext`: write true or false, without quotes\n\
                    daemon.toml:22: `mqtt.base`: a text stands in quotes; write \"7\"";
    assert_eq!(message(&text), expected);
    let ranges = GOOD.replace("box-1", "Box").replace(
        "[mqtt]",
        "[quarantine]\nkeep_days = 0\n[pipeline]\nattempts_max = 0\n[mqtt]\nstrikes_max = 0",
    );
    let words = message(&ranges);
    let keys = [
        "`node`",
        "`quarantine.keep_days`",
        "`pipeline.attempts_max`",
        "`mqtt.strikes_max`",
    ];
    let lines: Vec<&str> = words.lines().collect();
    assert_eq!(lines.len(), keys.len(), "{words}");
    for (line, key) in lines.iter().zip(keys) {
        assert!(line.contains(key), "{words}");
    }
}

#[test]
fn brackets_are_told() {
    for (section, expected) in [
        (
            "[dicom]\nname = \"pacs\"",
            "`dicom`: there may be several; write [[dicom]] with two brackets on each side",
        ),
        (
            "[[http]]\ntoken_file = \"x\"",
            "`http`: there is only one; write [http] with one bracket on each side",
        ),
        ("[results]\nkeep_days = 3.5", "`results.keep_days`"),
    ] {
        let words = message(&GOOD.replace("[mqtt]", &format!("{section}\n[mqtt]")));
        assert!(words.contains(expected), "{words}");
        assert_eq!(words.lines().count(), 1, "{words}");
    }
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
            expected: "daemon.toml:14: `mqtt.port`: write the number without quotes: 1883",
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
