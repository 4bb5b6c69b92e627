//! JSON Schemas of what goes out and comes in, generated from the types of the messages, and the AsyncAPI document that has
//! all topics. `daemon/schema/` has a copy of each for readers, which a test holds against the generated one.

use clap::ValueEnum;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use super::event::Event;
use super::health::Health;
use super::http::{Accepted, Error};
use super::info::Info;
use super::model::SlotModel;
use super::request::ReplayRequest;
use super::response::Response;
use super::result::Report;
use super::state::State;

/// Channels and operations; the schemas of the messages come in where it refers to them.
const ASYNCAPI: &str = include_str!("../../schema/asyncapi.json");

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// What `result/<source>` carries.
    Result,
    /// What `event` carries.
    Event,
    /// What `state` carries.
    State,
    /// What `health` carries.
    Health,
    /// What `info` carries.
    Info,
    /// What `model/<slot>` carries.
    Model,
    /// What `response/<verb>` carries.
    Response,
    /// What `request/replay` takes.
    ReplayRequest,
    /// What `POST /v1/images` answers with 202.
    Accepted,
    /// What HTTP answers otherwise, and `segment` prints for a file without a result.
    Error,
    /// All topics, requests and responses, with the schemas above.
    Asyncapi,
}

impl Document {
    pub fn text(self) -> String {
        format!("{:#}\n", self.json())
    }

    pub(crate) fn json(self) -> Value {
        let sent = SchemaSettings::draft2020_12().for_serialize();
        let received = SchemaSettings::draft2020_12().for_deserialize();
        match self {
            Self::Result => generate::<Report>(sent),
            Self::Event => generate::<Event<'static>>(sent),
            Self::State => generate::<State>(sent),
            Self::Health => generate::<Health>(sent),
            Self::Info => generate::<Info<'static>>(sent),
            Self::Model => generate::<SlotModel>(sent),
            Self::Response => generate::<Response>(sent),
            Self::ReplayRequest => generate::<ReplayRequest>(received),
            Self::Accepted => generate::<Accepted<'static>>(sent),
            Self::Error => generate::<Error<'static>>(sent),
            Self::Asyncapi => asyncapi(),
        }
    }
}

fn asyncapi() -> Value {
    let mut document: Value = serde_json::from_str(ASYNCAPI).expect("the shipped document is JSON");
    document["components"]["schemas"] = serde_json::json!({
        "result": Document::Result.json(),
        "event": Document::Event.json(),
        "state": Document::State.json(),
        "health": Document::Health.json(),
        "info": Document::Info.json(),
        "model": Document::Model.json(),
        "response": Document::Response.json(),
        "replayRequest": Document::ReplayRequest.json(),
    });
    document
}

/// Without references, so that a schema can stand inside of another document.
fn generate<T: JsonSchema>(settings: SchemaSettings) -> Value {
    let settings = settings
        .with(|it| it.inline_subschemas = true)
        .with_transform(RecursiveTransform(plain));
    settings.into_generator().into_root_schema_for::<T>().into()
}

/// Leaves what every reader of JSON Schema understands, and takes away what only Rust means by it.
fn plain(schema: &mut Schema) {
    // A field that may be absent is never null: `None` is left out.
    let required = schema.get("required").cloned().unwrap_or_default();
    let required = required.as_array().map_or(&[][..], Vec::as_slice);
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (name, property) in properties.into_iter().flatten() {
        if !required.iter().any(|it| it == name) {
            refuse_null(property);
        }
    }
    let Some(keywords) = schema.as_object_mut() else {
        return;
    };
    // An enum whose variants have docs; these are for readers of the source.
    if let Some(words) = keywords.get("oneOf").and_then(words) {
        keywords.remove("oneOf");
        keywords.insert("type".to_owned(), "string".into());
        keywords.insert("enum".to_owned(), words.into());
    }
    // `uint64` and `double` are no formats of the standard, and some validators refuse what they do not know.
    let format = keywords.get("format").and_then(Value::as_str);
    if format.is_some_and(|format| !["uuid", "date-time"].contains(&format)) {
        keywords.remove("format");
    }
    // A doc comment breaks its lines for the source.
    if let Some(Value::String(text)) = keywords.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}

fn refuse_null(property: &mut Value) {
    let is_null = |value: &Value| *value == "null" || value.is_null() || value["type"] == "null";
    for keyword in ["type", "enum"] {
        if let Some(Value::Array(values)) = property.get_mut(keyword) {
            values.retain(|value| !is_null(value));
        }
    }
    if let Some(Value::Array(types)) = property.get("type")
        && let [only] = &types[..]
    {
        let only = only.clone();
        property["type"] = only;
    }
    if let Some(Value::Array(branches)) = property.get("anyOf")
        && let [Value::Object(branch), null] = &branches[..]
        && is_null(null)
    {
        let branch = branch.clone();
        if let Value::Object(keywords) = property {
            keywords.remove("anyOf");
            for (keyword, rule) in branch {
                keywords.entry(keyword).or_insert(rule);
            }
        }
    }
}

/// Of a `oneOf` that only lists words.
fn words(branches: &Value) -> Option<Vec<Value>> {
    let mut words = Vec::new();
    for branch in branches.as_array()? {
        match (branch.get("const"), branch.get("enum")) {
            (Some(word), None) => words.push(word.clone()),
            (None, Some(several)) => words.extend(several.as_array()?.iter().cloned()),
            _ => return None,
        }
    }
    Some(words)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The value is as the document says, and has no field that it does not know.
    pub(crate) fn check(document: Document, value: &Value, place: &str) {
        if let Err(fault) = obey(&document.json(), value, place) {
            panic!("{fault}");
        }
    }

    /// A branch of `anyOf` has only some of the fields, so what is unknown shows at the whole alone.
    fn obey(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        rules(schema, value, place)?;
        let Some(fields) = value.as_object() else {
            return Ok(());
        };
        if schema.get("additionalProperties").is_some() {
            return Ok(());
        }
        let mut known = Vec::new();
        properties(schema, value, &mut known);
        let unknown = fields.keys().find(|key| !known.contains(key));
        unknown.map_or(Ok(()), |key| Err(format!("{place}.{key} is unknown")))
    }

    /// Names of a schema and of those of its branches that the value obeys.
    fn properties<'a>(schema: &'a Value, value: &Value, known: &mut Vec<&'a String>) {
        known.extend(
            schema["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, _)| key),
        );
        for branch in schema["anyOf"].as_array().into_iter().flatten() {
            if rules(branch, value, "").is_ok() {
                properties(branch, value, known);
            }
        }
    }

    /// The part of JSON Schema that the schemas use; another keyword is a failure.
    fn rules(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
        for (keyword, rule) in schema.as_object().unwrap() {
            rule_holds(schema, (keyword, rule), value, place)?;
        }
        Ok(())
    }

    fn rule_holds(
        schema: &Value,
        (keyword, rule): (&str, &Value),
        value: &Value,
        place: &str,
    ) -> Result<(), String> {
        let holds = match keyword {
            "$schema" | "$id" | "title" | "description" | "format" => true,
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "type" => has_type(rule, value),
            "anyOf" => {
                let branches = rule.as_array().unwrap().iter();
                let faults: Result<Vec<String>, ()> = branches
                    .map(|branch| rules(branch, value, place).err().ok_or(()))
                    .collect();
                return faults.map_or(Ok(()), |faults| Err(faults.join("; or ")));
            }
            // `type` says whether there may be none.
            "required" | "minimum" | "maximum" | "minItems" | "maxItems" if value.is_null() => true,
            "required" => {
                let mut keys = rule.as_array().unwrap().iter();
                let missing = keys.find(|key| value.get(key.as_str().unwrap()).is_none());
                return missing.map_or(Ok(()), |key| Err(format!("{place}: {key} is missing")));
            }
            "properties" => {
                for (key, rule) in rule.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        obey(rule, value, &format!("{place}.{key}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let named = |key: &str| schema["properties"].get(key).is_some();
                let mut fields = value.as_object().into_iter().flatten();
                if *rule == false {
                    fields.all(|(key, _)| named(key))
                } else {
                    for (key, value) in fields.filter(|(key, _)| !named(key)) {
                        obey(rule, value, &format!("{place}.{key}"))?;
                    }
                    true
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    obey(rule, value, &format!("{place}[{index}]"))?;
                }
                true
            }
            "minItems" => n_items(value) >= rule.as_u64(),
            "maxItems" => n_items(value) <= rule.as_u64(),
            "minimum" => value.as_f64() >= rule.as_f64(),
            "maximum" => value.as_f64() <= rule.as_f64(),
            other => panic!("{place}: the check does not know `{other}`"),
        };
        let fault = || format!("{place}: {value} breaks {keyword} {rule}");
        if holds { Ok(()) } else { Err(fault()) }
    }

    fn n_items(value: &Value) -> Option<u64> {
        Some(value.as_array()?.len() as u64)
    }

    fn has_type(rule: &Value, value: &Value) -> bool {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let allowed = |name: &Value| name == kind || (name == "number" && kind == "integer");
        rule.as_array()
            .map_or(allowed(rule), |names| names.iter().any(allowed))
    }

    /// Every place that a document refers to.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(place)) = fields.get("$ref") {
                    found.push(place.clone());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    /// Everything below a node's root, as the modules of `mqtt` and `encode` name it.
    #[test]
    fn the_asyncapi_document_has_every_topic() {
        let document: Value = serde_json::from_str(&Document::Asyncapi.text()).unwrap();
        let channels = document["channels"].as_object().unwrap().values();
        let addresses = channels.map(|channel| channel["address"].as_str().unwrap());
        let mut topics: Vec<&str> = addresses
            .map(|address| address.strip_prefix("{base}/v1/{node}/").unwrap())
            .collect();
        topics.sort_unstable();
        let expected = [
            "availability",
            "event",
            "health",
            "info",
            "mask/{job}/{part}",
            "model/{slot}",
            "request/replay",
            "request/segment",
            "response/{verb}",
            "result/{source}",
            "state",
        ];
        assert_eq!(topics, expected);
        for operation in document["operations"].as_object().unwrap().values() {
            let place = operation["channel"]["$ref"].as_str().unwrap();
            assert!(document.pointer(&place[1..]).is_some(), "{place}");
        }
    }

    #[test]
    fn the_copies_for_readers_are_what_is_generated() {
        for document in Document::value_variants() {
            if *document == Document::Asyncapi {
                continue;
            }
            let name = document.to_possible_value().unwrap();
            let name = name.get_name();
            let path = format!("{}/schema/{name}-1.json", env!("CARGO_MANIFEST_DIR"));
            let copy = std::fs::read_to_string(path).unwrap_or_default();
            assert!(
                copy == document.text(),
                "subscribers see another contract; if they are to, \
                 `scansided schema {name} > daemon/schema/{name}-1.json`"
            );
        }
    }

    #[test]
    fn every_reference_of_the_asyncapi_document_leads_somewhere() {
        let document: Value = serde_json::from_str(&Document::Asyncapi.text()).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 20);
        for place in found {
            let pointer = place.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{place}");
        }
    }
}
