//! `config/daemon.toml` shows every key with its default.

use super::sections::{PORT, SEG};
use super::*;

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
    let text = format!("{text}[seg.send_to.tls]\n{tls}");
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
