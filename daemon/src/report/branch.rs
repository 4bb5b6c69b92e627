//! A message whose fields depend on one of them: the schema of each branch says with which of its values it comes.

use schemars::Schema;
use serde::Serialize;

/// A branch of `anyOf` holds only where `field` has one of `values`.
pub(super) fn only_with(schema: &mut Schema, field: &str, values: &[impl Serialize]) {
    let values = serde_json::to_value(values).expect("words are JSON");
    let properties = schema.ensure_object().entry("properties");
    properties.or_insert_with(|| serde_json::json!({}))[field] =
        serde_json::json!({ "enum": values });
}
