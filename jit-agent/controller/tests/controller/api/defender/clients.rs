//! Bodies as Azure's tools send them, recorded or written after their sources. Each of them becomes
//! the policy that was meant, and what comes back has the fields that the tool reads.

use std::collections::BTreeSet;

use jit_controller::store::{DefenderMachine, DefenderPolicy, defender};
use serde_json::{Value, json};

use super::{SUBSCRIPTION, id, in_minutes, initiate_path, machine, path, wanted};
use crate::{api::Site, databases::Database};

on_each_database! {
    bodies_of_every_tool_become_the_policy_that_was_meant,
    initiate_of_every_tool_is_taken,
    a_long_list_has_pages,
}

/// `az rest --method put`, after the example of azure-rest-api-specs.
fn az_rest() -> Value {
    json!({
        "kind": "Basic",
        "properties": {
            "virtualMachines": [{
                "id": machine("web-1"),
                "ports": [
                    { "number": 22, "protocol": "*", "allowedSourceAddressPrefix": "*",
                      "maxRequestAccessDuration": "PT3H" },
                    { "number": 3389, "protocol": "*", "allowedSourceAddressPrefix": "*",
                      "maxRequestAccessDuration": "PT3H" },
                ],
            }],
            // The example has requests of the past in it, which Azure ignores.
            "requests": [{
                "virtualMachines": [{ "id": machine("web-1"), "ports": [{
                    "number": 3389, "allowedSourceAddressPrefix": "192.127.0.2",
                    "endTimeUtc": "2018-05-17T09:06:45.5691611Z", "status": "Initiated",
                    "statusReason": "UserRequested",
                }]}],
                "startTimeUtc": "2018-05-17T08:06:45.5691611Z", "requestor": "barbara@contoso.com",
            }],
        },
        "id": id("rg1", "default"), "name": "default", "location": "westeurope",
        "type": "Microsoft.Security/locations/jitNetworkAccessPolicies",
    })
}

/// `Set-AzJitNetworkAccessPolicy`: the .NET client writes every field that it has, `null` too.
fn set_az() -> Value {
    json!({
        "kind": "Basic",
        "properties": {
            "virtualMachines": [{
                "id": machine("WEB-1"),
                "ports": [
                    { "number": 22, "protocol": "*", "allowedSourceAddressPrefix": null,
                      "allowedSourceAddressPrefixes": ["*"], "maxRequestAccessDuration": "PT3H" },
                    { "number": 3389, "protocol": "", "allowedSourceAddressPrefix": "*",
                      "allowedSourceAddressPrefixes": [], "maxRequestAccessDuration": "PT180M" },
                ],
                "publicIpAddress": null,
            }],
            "requests": null,
        },
    })
}

/// `azapi_resource` of Terraform, whose HCL makes texts of numbers, and lists.
fn azapi() -> Value {
    json!({
        "name": "default",
        "kind": "Basic",
        "location": "West Europe",
        "properties": {
            "virtualMachines": [{
                "id": machine("web-1"),
                "ports": [
                    { "number": "22", "protocol": "*", "allowedSourceAddressPrefix": ["*"],
                      "maxRequestAccessDuration": "PT3H" },
                    { "number": "3389", "protocol": "*", "maxRequestAccessDuration": "PT3H" },
                ],
            }],
        },
    })
}

/// An ARM template, whose names are written as people like.
fn template() -> Value {
    json!({
        "Kind": "basic",
        "Properties": {
            "VirtualMachines": [{
                "Id": format!("{}/", machine("web-1")),
                "Ports": [
                    { "Number": 22, "Protocol": "All", "AllowedSourceAddressPrefix": "*",
                      "MaxRequestAccessDuration": "PT3H" },
                    { "Number": 3389, "Protocol": "*", "AllowedSourceAddressPrefix": "Any",
                      "MaxRequestAccessDuration": "PT3H" },
                ],
            }],
        },
    })
}

async fn bodies_of_every_tool_become_the_policy_that_was_meant(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    for (tool, body) in
        [("az", az_rest()), ("Az", set_az()), ("azapi", azapi()), ("template", template())]
    {
        let answer = root.put(&path("rg1", "default"), body).await.ok(200);
        let wanted = wanted(&site, "web-1").await.unwrap();
        let meant: Vec<_> = wanted
            .iter()
            .map(|port| {
                let sources = port.sources().len();
                (port.number, port.protocol.word(), sources, port.longest.millis())
            })
            .collect();
        let three_hours = 3 * 3_600_000;
        // Everybody is two prefixes: that of IPv4 and that of IPv6.
        assert_eq!(meant, [(22, "*", 2, three_hours), (3389, "*", 2, three_hours)], "{tool}");
        assert_eq!(answer["id"], id("rg1", "default"), "{tool}");
        assert_eq!(answer["kind"].as_str().unwrap().to_lowercase(), "basic");
        for field in ["provisioningState", "virtualMachines", "requests"] {
            assert!(!answer["properties"][field].is_null(), "{tool}: {field}");
        }
        for port in answer["properties"]["virtualMachines"][0]["ports"].as_array().unwrap() {
            assert!(port["number"].is_u64(), "{tool}: {port}");
            let both = ["allowedSourceAddressPrefix", "allowedSourceAddressPrefixes"];
            let there = both.iter().filter(|name| !port[**name].is_null()).count();
            assert_eq!(there, 1, "{tool}: they exclude each other: {port}");
        }
        root.delete(&path("rg1", "default")).await.ok(200);
    }
    // What is answered is taken as it is: a tool may send back what it has read.
    let answer = root.put(&path("rg1", "default"), azapi()).await.ok(200);
    let again = root.put(&path("rg1", "default"), answer.clone()).await.ok(200);
    assert_eq!(again, answer);
}

async fn initiate_of_every_tool_is_taken(database: Database) {
    let site = Site::new(database).await;
    let (root, ana) = (site.caller("root").await, site.caller("ana").await);
    root.put(&path("rg1", "default"), az_rest()).await.ok(200);
    let ends = in_minutes(60);
    let without_zone = ends.trim_end_matches('Z');
    let cmdlet = initiate_path("rg1", "default").replace("/initiate", "/Initiate");
    for (tool, path, body) in [
        (
            "az rest",
            initiate_path("rg1", "default"),
            json!({ "virtualMachines": [{ "id": machine("web-1"), "ports": [{
                "number": 22, "duration": "PT1H", "endTimeUtc": ends,
                "allowedSourceAddressPrefix": "203.0.113.7" }]}],
                "justification": "testing a new version of the product" }),
        ),
        (
            // Start-AzJitNetworkAccessPolicy -ResourceId ... -VirtualMachine ...
            "Az",
            cmdlet,
            json!({ "virtualMachines": [{ "id": machine("web-1").to_uppercase(), "ports": [{
                "number": 22, "allowedSourceAddressPrefix": "203.0.113.7",
                "endTimeUtc": without_zone }]}], "justification": null }),
        ),
        (
            "a script of the portal's time",
            initiate_path("RG1", "Default").replace(SUBSCRIPTION, &SUBSCRIPTION.to_uppercase()),
            json!({ "VirtualMachines": [{ "ID": machine("web-1"), "Ports": [{
                "Number": "22", "AllowedSourceAddressPrefix": ["203.0.113.7"],
                "EndTimeUtc": ends }]}] }),
        ),
    ] {
        let answer = ana.post(&path, body).await.ok(202);
        let port = &answer["virtualMachines"][0]["ports"][0];
        assert_eq!(
            (&port["number"], &port["status"], &port["allowedSourceAddressPrefix"]),
            (&json!(22), &json!("Initiating"), &json!("203.0.113.7")),
            "{tool}"
        );
        let end: jiff::Timestamp = port["endTimeUtc"].as_str().unwrap().parse().unwrap();
        let wanted: jiff::Timestamp = ends.parse().unwrap();
        assert_eq!(end.as_millisecond(), wanted.as_millisecond(), "{tool}");
    }
    let page = ana.get("/api/v1/requests?state=pending").await.ok(200);
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
}

async fn a_long_list_has_pages(database: Database) {
    let site = Site::new(database).await;
    let root = site.caller("root").await;
    let mut tx = site.store().begin().await.unwrap();
    for number in 0..205 {
        let name = format!("p{number:03}");
        let policy = DefenderPolicy {
            id: format!("01KPEXAMP1E0000000000000{number:03}"),
            key: format!("{SUBSCRIPTION}/rg1/westeurope/{name}"),
            subscription: SUBSCRIPTION.into(),
            resource_group: "rg1".into(),
            location: "westeurope".into(),
            name,
            kind: "Basic".into(),
            revision: 1,
            changed_by: "root@example.org".into(),
            changed_ms: 1,
            machines: vec![DefenderMachine {
                resource: machine("web-1"),
                host: "web-1".into(),
                ports: Vec::new(),
            }],
        };
        defender::put(&mut tx, &policy).await.unwrap();
    }
    tx.commit().await.unwrap();
    let list = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/RG1/providers/Microsoft.Security/\
         jitNetworkAccessPolicies"
    );
    let (mut names, mut pages) = (BTreeSet::new(), Vec::new());
    let mut next = Some(format!("{list}?api-version=2020-01-01"));
    while let Some(path) = next {
        let page = root.get(&path).await.ok(200);
        let items = page["value"].as_array().unwrap();
        pages.push(items.len());
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        // It is whole, with the version of the API, as Azure's.
        next = page["nextLink"].as_str().map(|link| {
            assert!(link.contains("api-version=2020-01-01"), "{link}");
            link.strip_prefix(&site.base).unwrap().to_owned()
        });
    }
    assert_eq!((pages, names.len()), (vec![100, 100, 5], 205));
    let broken = root.get(&format!("{list}?api-version=2020-01-01&$skiptoken=%21")).await;
    assert_eq!(broken.azure(400, "InvalidRequestContent")["target"], "$skipToken");
}
