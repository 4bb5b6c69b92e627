//! What subscribers are promised, as documents for their programs.

use clap::ValueEnum;
use serde_json::Value;

pub(crate) const RESULT: &str = include_str!("../../schema/result-1.json");
pub(crate) const EVENT: &str = include_str!("../../schema/event-1.json");
pub(crate) const STATE: &str = include_str!("../../schema/state-1.json");
pub(crate) const HEALTH: &str = include_str!("../../schema/health-1.json");
pub(crate) const INFO: &str = include_str!("../../schema/info-1.json");
pub(crate) const MODEL: &str = include_str!("../../schema/model-1.json");
const RESPONSE: &str = include_str!("../../schema/response-1.json");
const REPLAY_REQUEST: &str = include_str!("../../schema/replay-request-1.json");
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
    /// All topics, requests and responses, with the schemas above.
    Asyncapi,
}

impl Document {
    pub fn text(self) -> String {
        match self {
            Self::Result => RESULT,
            Self::Event => EVENT,
            Self::State => STATE,
            Self::Health => HEALTH,
            Self::Info => INFO,
            Self::Model => MODEL,
            Self::Response => RESPONSE,
            Self::ReplayRequest => REPLAY_REQUEST,
            Self::Asyncapi => return asyncapi(),
        }
        .to_owned()
    }
}

fn asyncapi() -> String {
    let parse = |text| serde_json::from_str::<Value>(text).expect("the shipped documents are JSON");
    let mut document = parse(ASYNCAPI);
    document["components"]["schemas"] = serde_json::json!({
        "result": parse(RESULT),
        "event": parse(EVENT),
        "state": parse(STATE),
        "health": parse(HEALTH),
        "info": parse(INFO),
        "model": parse(MODEL),
        "response": parse(RESPONSE),
        "replayRequest": parse(REPLAY_REQUEST),
    });
    format!("{document:#}\n")
}

#[cfg(test)]
/// The part of JSON Schema that the shipped schemas use; another keyword is a failure.
pub(crate) fn check(schema: &Value, value: &Value, place: &str) {
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" | "format" => {}
            "const" => assert_eq!(value, rule, "{place}"),
            "enum" => assert!(rule.as_array().unwrap().contains(value), "{place}: {value}"),
            "type" => {
                let kind = match value {
                    Value::Null => "null",
                    Value::Bool(_) => "boolean",
                    Value::Number(number) if number.is_f64() => "number",
                    Value::Number(_) => "integer",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                let allowed =
                    |name: &Value| name == kind || (name == "number" && kind == "integer");
                let ok = rule
                    .as_array()
                    .map_or(allowed(rule), |names| names.iter().any(allowed));
                assert!(ok, "{place}: {kind} is not {rule}");
            }
            // `type` says whether there may be none.
            "required" | "minimum" if value.is_null() => {}
            "required" => {
                for key in rule.as_array().unwrap() {
                    assert!(
                        value.get(key.as_str().unwrap()).is_some(),
                        "{place}: {key} is missing"
                    );
                }
            }
            "properties" | "additionalProperties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    let any = schema.get("additionalProperties");
                    let known = schema.get("properties").and_then(|rules| rules.get(key));
                    let rule = known
                        .or(any)
                        .unwrap_or_else(|| panic!("{place}.{key} is unknown"));
                    check(rule, value, &format!("{place}.{key}"));
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, value, &format!("{place}[{index}]"));
                }
            }
            "minItems" => {
                let items = value
                    .as_array()
                    .map_or(u64::MAX, |items| items.len() as u64);
                assert!(items >= rule.as_u64().unwrap(), "{place}");
            }
            "maxItems" => {
                let items = value.as_array().map_or(0, |items| items.len() as u64);
                assert!(items <= rule.as_u64().unwrap(), "{place}");
            }
            "minimum" => assert!(value.as_f64() >= rule.as_f64(), "{place}"),
            other => panic!("{place}: the check does not know `{other}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
