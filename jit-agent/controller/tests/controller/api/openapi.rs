//! The description of the API is the one in the documents, and names every path.

use std::path::Path;

use jit_controller::api::description;

/// Set, the file is written anew.
const WRITE: &str = "JIT_WRITE_OPENAPI";

#[test]
fn the_description_is_the_one_in_the_documents() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let now = format!("{}\n", description().to_pretty_json().unwrap());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(
        kept == now,
        "docs/openapi.json is old: run this test with {WRITE}=1, and look at the diff"
    );
}

#[test]
fn every_reference_of_the_description_leads_somewhere() {
    let all = serde_json::to_value(description()).unwrap();
    let text = all.to_string();
    let names = text.split("#/components/schemas/").skip(1);
    let mut count = 0;
    for name in names.map(|rest| rest.split('"').next().unwrap()) {
        assert!(all["components"]["schemas"].get(name).is_some(), "{name}");
        count += 1;
    }
    assert!(count > 50, "{count}");
    for (path, operations) in all["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} has no words");
        }
    }
}
