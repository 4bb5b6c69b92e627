//! What the node says about itself, against the schemas that subscribers get.

use std::path::Path;

use uuid::Uuid;

use super::*;
use crate::report::privacy::Privacy;
use crate::report::schema::Document;
use crate::report::schema::tests::check;

#[test]
fn retained_messages_and_health_obey_the_shipped_schemas() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo/cardiac-lv-vit_t-256");
    let text = format!(
        "node = \"box-1\"\n[model]\nbundle = {bundle:?}\n[[slot]]\nname = \"heart\"\nbundle = {bundle:?}\n\
         [state]\ndirectory = {:?}\n[[folder]]\nname = \"inbox\"\ndirectory = \"inbox\"\n\
         [models]\nshadow = \"candidate\"\n[mqtt]\nhost = \"127.0.0.1\"\nrequests = [\"replay\"]\n",
        folder.path()
    );
    let config = Config::parse(&text, Path::new("daemon.toml")).unwrap();
    let models = Models::open(&config).unwrap();
    let outbox = Outbox::open(folder.path()).unwrap();
    let (status, started) = (Status::default(), std::time::Instant::now());
    let encoder = Encoder {
        node: "box-1".into(),
        boot: Uuid::from_u128(7),
        inline_max_bytes: 2000,
        privacy: Privacy::Full,
    };
    status.identity.set(outbox.identity().unwrap()).unwrap();
    for protocol in [Version::Five, Version::Three] {
        let info = info(&config, (&encoder, &status), &models, protocol);
        check(Document::Info, &info, "info");
    }
    let state = state(&config, (&encoder, &models), &status, &outbox).unwrap();
    check(Document::State, &state, "state");
    let health = health(&config, &status, &outbox, started).unwrap();
    check(Document::Health, &health, "health");
    let messages = models.messages();
    assert_eq!(messages.len(), 2);
    for (topic, payload) in messages {
        let value = serde_json::from_slice(&payload).unwrap();
        check(Document::Model, &value, topic);
    }
}
