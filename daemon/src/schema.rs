//! What subscribers are promised, as documents for their programs.

use clap::ValueEnum;
use serde_json::Value;

pub(crate) const RESULT: &str = include_str!("../schema/result-1.json");
const RESPONSE: &str = include_str!("../schema/response-1.json");
const REPLAY_REQUEST: &str = include_str!("../schema/replay-request-1.json");
const ASYNCAPI: &str = include_str!("../schema/asyncapi.json");

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// What `result/<source>` carries.
    Result,
    /// What `response/<verb>` carries.
    Response,
    /// What `request/replay` takes.
    ReplayRequest,
    /// Topics, requests and responses, with the schemas above.
    Asyncapi,
}

impl Document {
    pub fn text(self) -> String {
        match self {
            Self::Result => RESULT.to_owned(),
            Self::Response => RESPONSE.to_owned(),
            Self::ReplayRequest => REPLAY_REQUEST.to_owned(),
            Self::Asyncapi => asyncapi(),
        }
    }
}

fn asyncapi() -> String {
    let parse = |text| serde_json::from_str::<Value>(text).expect("the shipped documents are JSON");
    let mut document = parse(ASYNCAPI);
    document["components"]["schemas"] = serde_json::json!({
        "result": parse(RESULT),
        "response": parse(RESPONSE),
        "replayRequest": parse(REPLAY_REQUEST),
    });
    format!("{document:#}\n")
}

#[cfg(test)]
/// The part of JSON Schema that the shipped schema uses; another keyword is a failure.
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
            "properties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    let rule = rule
                        .get(key)
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
