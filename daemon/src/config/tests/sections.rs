//! Ports, segmentations, and what of them leaves the machine.

use super::*;

pub(super) const PORT: &str = "[[dicom]]\nname = \"pacs\"\n";

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

pub(super) const SEG: &str = r#"
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
            "daemon.toml:20: `seg.send_to.host`: `pacs` is beyond this machine and the connection is not \
             encrypted; add [seg.send_to.tls], or set `allow_plaintext = true` in [seg.send_to] if the \
             network is trusted",
        ),
        (
            "called_ae_title = \"PACS\"",
            "called_ae_title = \"PACS\"\n[seg.send_to.tls]\ncertificate_file = \"box.pem\"",
            "daemon.toml:22: `seg.send_to.tls`: nobody vouches for the PACS; set `ca_file` to the \
             certificate of its authority, or to /etc/ssl/certs/ca-certificates.crt for the public ones",
        ),
    ] {
        assert_eq!(message(&good.replace(from, to)), expected);
    }
    let elsewhere = good.replace("127.0.0.1\"\ncalled", "pacs\"\ncalled");
    let encrypted = format!("{elsewhere}[seg.send_to.tls]\nca_file = \"ca.pem\"\n");
    Config::parse(&encrypted, Path::new("daemon.toml")).unwrap();
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
                       [[dicom]] if the network is trusted",
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
