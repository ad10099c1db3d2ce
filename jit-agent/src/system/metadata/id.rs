//! Ids out of the services' answers: pure. What does not have the documented form is no id.

use serde::Deserialize;

use super::fault::Fault;

/// The longest id that a grant can name, bytes.
const LONGEST: usize = 512;

/// The id of an Azure resource (also Arc's): the value of `resourceId`, as given. Two of them are
/// compared without regard to case.
pub(super) fn azure(body: &[u8]) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Compute {
        #[serde(rename = "resourceId")]
        resource_id: String,
    }
    let Compute { resource_id } = json(body)?;
    of_azure(resource_id)
}

/// The same where the service gives the value alone.
pub(super) fn azure_text(body: &[u8]) -> Result<String, Fault> {
    of_azure(String::from_utf8_lossy(body).into_owned())
}

fn of_azure(resource_id: String) -> Result<String, Fault> {
    let path = resource_id.get(..15).is_some_and(|one| one.eq_ignore_ascii_case("/subscriptions/"));
    let printable = resource_id.bytes().all(|byte| byte.is_ascii_graphic());
    if path && printable && resource_id.len() <= LONGEST {
        return Ok(resource_id);
    }
    Err(malformed("resourceId", &resource_id))
}

/// The same of an Azure VM, where it is below `compute`.
pub(super) fn azure_vm(body: &[u8]) -> Result<String, Fault> {
    #[derive(Deserialize)]
    struct Instance {
        compute: serde_json::Value,
    }
    let Instance { compute } = json(body)?;
    azure(compute.to_string().as_bytes())
}

/// The ARN of an EC2 instance, from its identity document.
pub(super) fn ec2(body: &[u8]) -> Result<String, Fault> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        account_id: String,
        instance_id: String,
        region: String,
    }
    let Document { account_id, instance_id, region } = json(body)?;
    if !is_name(&region, 32) {
        return Err(malformed("region", &region));
    }
    if account_id.len() != 12 || !account_id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed("accountId", &account_id));
    }
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !instance_id.strip_prefix("i-").is_some_and(|id| matches!(id.len(), 8..=32) && hex(id)) {
        return Err(malformed("instanceId", &instance_id));
    }
    // https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
    let partition = match &region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    Ok(format!("arn:{partition}:ec2:{region}:{account_id}:instance/{instance_id}"))
}

/// The full resource name of a GCP VM, from three answers: the project, the zone
/// (`projects/NUMBER/zones/ZONE`), the number of the instance.
pub(super) fn gcp(project: &[u8], zone: &[u8], instance: &[u8]) -> Result<String, Fault> {
    let text = |body: &[u8]| String::from_utf8_lossy(body).trim().to_owned();
    let (project, zone, instance) = (text(project), text(zone), text(instance));
    // An old project may have a domain: "example.com:name".
    let is_project = project.split(['.', ':']).all(|part| is_name(part, 63));
    if !is_project || project.len() > 63 {
        return Err(malformed("project-id", &project));
    }
    let name = zone.rsplit('/').next().unwrap_or_default();
    if !zone.starts_with("projects/") || !is_name(name, 63) {
        return Err(malformed("zone", &zone));
    }
    if !matches!(instance.len(), 1..=20) || !instance.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed("id", &instance));
    }
    Ok(format!("//compute.googleapis.com/projects/{project}/zones/{name}/instances/{instance}"))
}

fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| Fault::Malformed(format!("its JSON: {error}")))
}

fn is_name(text: &str, longest: usize) -> bool {
    let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !text.is_empty() && text.len() <= longest && text.bytes().all(allowed)
}

fn malformed(what: &str, value: &str) -> Fault {
    let shown: String = value.chars().take(80).collect();
    Fault::Malformed(format!("{what} is {shown:?}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RESOURCE: &str = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/Prod/\
                            providers/Microsoft.HybridCompute/machines/web-1";

    fn document(region: &str, account: &str, instance: &str) -> String {
        format!(
            "{{\"accountId\":\"{account}\",\"region\":\"{region}\",\"instanceId\":\"{instance}\",\
             \"version\":\"2017-09-30\",\"billingProducts\":null}}"
        )
    }

    #[test]
    fn documented_answers_give_the_documented_names() {
        let arc = format!("{{\"resourceId\":\"{RESOURCE}\",\"tagsList\":[]}}");
        assert_eq!(azure(arc.as_bytes()).unwrap(), RESOURCE);
        let vm = format!("{{\"compute\":{arc},\"network\":{{}}}}");
        assert_eq!(azure_vm(vm.as_bytes()).unwrap(), RESOURCE);
        assert_eq!(azure_text(RESOURCE.as_bytes()).unwrap(), RESOURCE);
        assert!(azure_text(b"<html>").is_err() && azure_text(b"").is_err());
        for (region, partition) in
            [("eu-central-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
        {
            let text = document(region, "123456789012", "i-1234567890abcdef0");
            assert_eq!(
                ec2(text.as_bytes()).unwrap(),
                format!("arn:{partition}:ec2:{region}:123456789012:instance/i-1234567890abcdef0")
            );
        }
        assert_eq!(
            gcp(b"prod-1", b"projects/123/zones/europe-west3-a\n", b"4520031799277581759").unwrap(),
            "//compute.googleapis.com/projects/prod-1/zones/europe-west3-a/instances/4520031799277581759"
        );
    }

    #[test]
    fn other_json_other_types_and_strange_characters_are_no_id() {
        for text in [
            "",
            "[]",
            "{}",
            "{\"resourceId\": 7}",
            "{\"resourceId\": null}",
            "{\"resourceId\": \"\"}",
            "{\"resourceId\": \"web-1\"}",
            "{\"resourceId\": \"/subscriptions/a b\"}",
            "{\"resourceId\": \"/subscriptions/a\\u001b[2J\"}",
            "{\"resourceId\": \"/subscriptions/\u{e4}\"}",
            "<html>proxy</html>",
        ] {
            assert!(matches!(azure(text.as_bytes()), Err(Fault::Malformed(_))), "{text}");
            let vm = format!("{{\"compute\":{text}}}");
            assert!(matches!(azure_vm(vm.as_bytes()), Err(Fault::Malformed(_))), "{text}");
        }
        let long = format!("{{\"resourceId\":\"/subscriptions/{}\"}}", "a".repeat(512));
        assert!(azure(long.as_bytes()).is_err());
        for (region, account, instance) in [
            ("EU", "123456789012", "i-12345678"),
            ("", "123456789012", "i-12345678"),
            ("eu-1:x", "123456789012", "i-12345678"),
            ("eu-1", "12345678901", "i-12345678"),
            ("eu-1", "12345678901x", "i-12345678"),
            ("eu-1", "123456789012", "12345678"),
            ("eu-1", "123456789012", "i-1234567"),
            ("eu-1", "123456789012", "i-1234567/"),
        ] {
            let text = document(region, account, instance);
            assert!(matches!(ec2(text.as_bytes()), Err(Fault::Malformed(_))), "{text}");
        }
        for (project, zone, instance) in [
            ("", "projects/1/zones/z", "1"),
            ("a/b", "projects/1/zones/z", "1"),
            ("p", "zones/z", "1"),
            ("p", "projects/1/zones/", "1"),
            ("p", "projects/1/zones/z", "one"),
            ("p", "projects/1/zones/z", ""),
        ] {
            assert!(gcp(project.as_bytes(), zone.as_bytes(), instance.as_bytes()).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_every_id_can_be_named(body: Vec<u8>, more: Vec<u8>) {
            let all = [azure(&body), azure_vm(&body), ec2(&body), gcp(&body, &more, &body)];
            for id in all.into_iter().flatten() {
                prop_assert!(!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
