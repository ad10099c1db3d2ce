//! Defender's policies from a file and into one: what is sent, in which order, and what is left
//! out.

use jit_client::controller::{defender::RESOURCE_LABEL, types::HostView};
use serde_json::{Value, json};

use crate::server::{Controller, ok, page, problem};

const BASE: &str = "/subscriptions/s/resourceGroups/rg1/providers/Microsoft.Security/locations/eastus/\
                    jitNetworkAccessPolicies/default";

fn machine(name: &str) -> Value {
    json!({"id": format!("/subscriptions/s/virtualMachines/{name}"), "ports": [{
        "number": 22, "protocol": "TCP", "allowedSourceAddressPrefix": "198.51.100.0/24",
        "maxRequestAccessDuration": "PT3H"}]})
}

fn policy(machines: &[Value]) -> Value {
    json!({"id": BASE, "name": "default", "location": "eastus", "kind": "Basic",
        "type": "Microsoft.Security/locations/jitNetworkAccessPolicies",
        "properties": {"virtualMachines": machines}})
}

fn controller(file: &Value) -> Controller {
    let controller = Controller::with_login();
    std::fs::write(controller.file("p.json"), file.to_string()).unwrap();
    let host = |id: &str| HostView { id: id.into(), address: "a:1".into(), ..HostView::default() };
    controller.says("GET /hosts", page(&[host("vm1"), host("web-2")], None));
    controller.says("PUT /hosts/web-2", ok(&json!({})));
    let put = json!({"properties": {"provisioningState": "Updating"}});
    controller.says(&format!("PUT {BASE}"), ok(&put));
    controller
}

#[test]
fn an_import_labels_hosts_puts_policies_and_lists_what_is_left_out() {
    let file = json!([policy(&[machine("vm1"), machine("vm2"), machine("vm3")])]);
    let controller = controller(&file);
    let trial = controller.jitctl("import-defender p.json --host vm2=web-2 --dry-run");
    assert_eq!(trial.exit, Some(1), "{trial:?}");
    assert!(trial.out.ends_with("this was only a trial: nothing was changed\n"), "{trial:?}");
    controller.jitctl("import-defender p.json").fails(64, "add --yes");
    assert!(controller.asked().iter().all(|one| one.call == "GET /hosts"));

    let said = controller.jitctl("import-defender p.json --host vm2=web-2 --yes");
    assert_eq!(said.exit, Some(1), "{said:?}");
    for says in ["[0].virtualMachines[2]: no host is the machine vm3", "default: Updating\n"] {
        assert!(said.out.contains(says), "{says:?} is not in {said:?}");
    }
    let asked = controller.asked();
    let calls: Vec<_> = asked.iter().map(|one| one.call.as_str()).collect();
    assert_eq!(calls, ["GET /hosts", "PUT /hosts/web-2", &format!("PUT {BASE}")]);
    let host = asked.get(1).unwrap().json();
    assert_eq!(host.pointer("/address").unwrap(), "a:1");
    let label = host.pointer("/labels").and_then(|labels| labels.get(RESOURCE_LABEL));
    assert_eq!(label.unwrap(), "/subscriptions/s/virtualMachines/vm2");
    let put = asked.get(2).unwrap();
    assert_eq!(put.query, "api-version=2020-01-01");
    let machines = json!([machine("vm1"), machine("vm2")]);
    assert_eq!(put.json(), json!({"kind": "Basic", "properties": {"virtualMachines": machines}}));

    let said = controller.jitctl("import-defender p.json --host vm2=web-2 --yes --json");
    let shown: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(shown.pointer("/left_out/0/place").unwrap(), "[0].virtualMachines[2]");
}

#[test]
fn a_file_that_cannot_be_read_or_put_changes_nothing_more() {
    let controller = controller(&json!([policy(&[machine("vm9")])]));
    controller.jitctl("import-defender p.json --yes").fails(77, "there is nothing to put");
    std::fs::write(controller.file("p.json"), "{").unwrap();
    controller.jitctl("import-defender p.json --yes").fails(78, "it is no JSON");
    controller.jitctl("import-defender nothing.json --yes").fails(78, "nothing.json");
    std::fs::write(controller.file("p.json"), policy(&[machine("vm1")]).to_string()).unwrap();
    let azure = json!({"error": {"code": "Conflict", "message": "port 22 of vm1 is in another policy",
        "details": [{"code": "conflict", "message": "name each port in one policy only"}]}});
    controller.says(&format!("PUT {BASE}"), problem(409, "", "").with_body(&azure));
    let failed = controller.jitctl("import-defender p.json --yes");
    failed.fails(77, "refused: conflict: port 22 of vm1 is in another policy; name each port");
}

#[test]
fn an_export_is_what_an_import_reads() {
    let mut answered = policy(&[machine("vm1")]);
    let properties = answered.pointer_mut("/properties").unwrap().as_object_mut().unwrap();
    properties.insert("requests".into(), json!([{"requestor": "ana"}]));
    properties.insert("provisioningState".into(), json!("Succeeded"));
    let controller = controller(&Value::Null);
    controller.says("GET /subscriptions", ok(&json!({"value": [{"subscriptionId": "s"}]})));
    let list = "GET /subscriptions/s/providers/Microsoft.Security/jitNetworkAccessPolicies";
    controller.says(list, ok(&json!({ "value": [answered] })));
    let out = controller.jitctl("export-defender").good();
    let exported: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(exported, json!([policy(&[machine("vm1")])]));
    std::fs::write(controller.file("p.json"), &out).unwrap();
    controller.asked();
    controller.jitctl("import-defender p.json --yes").good();
    let put = controller.asked().pop().unwrap().json();
    assert_eq!(
        put.pointer("/properties/virtualMachines"),
        exported.pointer("/0/properties/virtualMachines")
    );
    let named = controller.jitctl("export-defender --subscription s").good();
    assert_eq!(named, out);
}

#[test]
fn a_list_that_has_no_end_is_no_export() {
    let controller = controller(&Value::Null);
    let list = "GET /subscriptions/s/providers/Microsoft.Security/jitNetworkAccessPolicies";
    let page = |token: &str| {
        let next = format!("https://x.example.org/?api-version=1&$skipToken={token}");
        ok(&json!({ "value": [policy(&[machine("vm1")])], "nextLink": next }))
    };
    controller.answers(list, [page("a"), page("b"), page("a")]);
    let said = controller.jitctl("export-defender --subscription s");
    assert!(said.out.is_empty(), "{said:?}");
    said.fails(69, "a page leads to one before it");
    assert_eq!(controller.asked().len(), 3);
}
