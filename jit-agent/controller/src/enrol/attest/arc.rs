//! Azure Arc: a token of a machine's own identity, by the tenant's Entra, for an application of
//! ours.
//!
//! The claim `xms_mirid` is the machine's resource id. Azure writes it in any case of letters, so
//! that it is compared without; the host keeps the spelling that its agent has, and is known by
//! small letters.

use std::collections::BTreeSet;

use openidconnect::core::CoreJsonWebKeySet;
use serde_json::Value;

use super::jwt::{self, Audience, JwtError};
use crate::enrol::proof::{Method, Proof, check_id};

/// The claim with the machine.
const RESOURCE: &str = "xms_mirid";
/// The type of such a resource, in small letters.
const TYPE: [&str; 3] = ["providers", "microsoft.hybridcompute", "machines"];

/// Whose machines may enrol.
#[derive(Clone, Debug)]
pub struct Arc {
    /// For whom their tokens are.
    pub audience: Audience,
    /// Tenants, in small letters.
    pub tenants: BTreeSet<String>,
}

impl Arc {
    /// The tenant by whose keys a token must be signed. Nothing else of it is checked.
    ///
    /// # Errors
    /// [`JwtError`]: it names none that counts here.
    pub fn tenant(&self, text: &str) -> Result<&str, JwtError> {
        let tenant = tenant(&jwt::issuer(text)?).ok_or(JwtError::Issuer)?;
        self.tenants.get(&tenant).map(String::as_str).ok_or(JwtError::Issuer)
    }

    /// That a machine is the host that it says it is. `keys`: those of the token's tenant.
    ///
    /// # Errors
    /// [`JwtError`]
    pub fn prove(
        &self,
        text: &str,
        host_id: &str,
        keys: &CoreJsonWebKeySet,
        now_ms: i64,
    ) -> Result<Proof, JwtError> {
        check_id(host_id).map_err(JwtError::Machine)?;
        let (issuer, tenant) = (jwt::issuer(text)?, self.tenant(text)?);
        let claims = jwt::claims(text, keys, &issuer, &self.audience, now_ms)?;
        let claim = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        if claim("tid").to_ascii_lowercase() != tenant {
            return Err(JwtError::Machine("it is of another tenant than its issuer (tid)".into()));
        }
        let machine = claim(RESOURCE).to_ascii_lowercase();
        if !is_machine(&machine) {
            return Err(JwtError::Machine(format!(
                "it names no machine of Azure Arc (its claim {RESOURCE} is of another type, or missing)"
            )));
        }
        if !host_id.eq_ignore_ascii_case(&machine) {
            return Err(JwtError::Machine(format!(
                "it is of the machine {machine}, and not of the host {host_id}"
            )));
        }
        let facts = [("resource", machine.clone()), ("tenant", tenant.to_owned())];
        Ok(Proof::new(host_id.to_owned(), Method::Arc, machine, facts.into()))
    }
}

/// The tenant of one of Entra's issuers, in small letters.
fn tenant(issuer: &str) -> Option<String> {
    let first = issuer.strip_prefix("https://sts.windows.net/");
    let first = first.and_then(|rest| rest.strip_suffix('/'));
    let second = issuer.strip_prefix("https://login.microsoftonline.com/");
    let second = second.and_then(|rest| rest.strip_suffix("/v2.0"));
    first.or(second).map(str::to_ascii_lowercase)
}

/// `/subscriptions/S/resourcegroups/G/providers/microsoft.hybridcompute/machines/NAME`
fn is_machine(resource: &str) -> bool {
    let parts: Vec<_> = resource.split('/').collect();
    let ["", "subscriptions", subscription, "resourcegroups", group, kind @ .., name] =
        parts.as_slice()
    else {
        return false;
    };
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._()".contains(&b))
    };
    kind == TYPE && [subscription, group, name].into_iter().all(|part| plain(part))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::enrol::attest::jwt::tests::{NOW_MS, Signer, audience, said};

    const TENANT: &str = "72f988bf-0000-0000-0000-2d7cd011db47";
    const HOST: &str = "/subscriptions/8d10da13-8125-4ba9-a717-bf7490507b3d/resourceGroups/Prod/\
                        providers/Microsoft.HybridCompute/machines/DB-1";

    fn issuer(tenant: &str) -> String {
        format!("https://sts.windows.net/{tenant}/")
    }

    fn world() -> (Signer, Arc) {
        let signer = Signer::new("entra");
        let tenants = [TENANT.to_owned()].into();
        (signer, Arc { audience: audience(), tenants })
    }

    fn of(resource: &str) -> Value {
        said(&issuer(TENANT), json!({ "tid": TENANT, "xms_mirid": resource }))
    }

    #[test]
    fn a_machine_is_the_host_of_its_resource_in_any_case_of_letters() {
        let (signer, arc) = world();
        for resource in [HOST.to_owned(), HOST.to_lowercase(), HOST.to_uppercase()] {
            let proof =
                arc.prove(&signer.token(&of(&resource)), HOST, &signer.keys(), NOW_MS).unwrap();
            assert_eq!((proof.host_id(), proof.method()), (HOST, Method::Arc));
            assert_eq!(proof.machine(), HOST.to_lowercase());
            assert_eq!(proof.facts()["tenant"], TENANT);
        }
        let second = format!("https://login.microsoftonline.com/{TENANT}/v2.0");
        let claims = said(&second, json!({ "tid": TENANT, "xms_mirid": HOST }));
        assert!(arc.prove(&signer.token(&claims), HOST, &signer.keys(), NOW_MS).is_ok());
    }

    #[test]
    fn another_tenant_or_issuer_proves_nothing() {
        let (signer, arc) = world();
        let other = "11111111-2222-3333-4444-555555555555";
        for issuer in [
            issuer(other),
            "https://sts.windows.net/".into(),
            format!("https://sts.windows.net.example.org/{TENANT}/"),
            format!("http://sts.windows.net/{TENANT}/"),
            format!("https://sts.windows.net/{TENANT}/x/"),
        ] {
            let claims = said(&issuer, json!({ "tid": TENANT, "xms_mirid": HOST }));
            let refused = arc.prove(&signer.token(&claims), HOST, &signer.keys(), NOW_MS);
            assert_eq!(refused, Err(JwtError::Issuer), "{issuer}");
        }
        for tid in [json!(other), json!(null), json!(7)] {
            let claims = said(&issuer(TENANT), json!({ "tid": tid, "xms_mirid": HOST }));
            let refused = arc.prove(&signer.token(&claims), HOST, &signer.keys(), NOW_MS);
            assert!(matches!(refused, Err(JwtError::Machine(_))), "{tid}");
        }
        // The keys of one tenant sign nothing for another one.
        let thief = Signer::new("entra");
        let tenants = [TENANT.to_owned(), other.to_owned()].into();
        let arc = Arc { tenants, ..arc };
        let stolen = thief.token(&of(HOST));
        assert_eq!(arc.tenant(&stolen), Ok(TENANT), "so its keys are those of this tenant");
        let refused = arc.prove(&stolen, HOST, &signer.keys(), NOW_MS);
        assert!(matches!(refused, Err(JwtError::Malformed(_))));
    }

    #[test]
    fn another_machine_or_kind_of_resource_proves_nothing() {
        let (signer, arc) = world();
        let name = "/subscriptions/s/resourcegroups/g/providers/microsoft.hybridcompute/machines/n";
        assert!(is_machine(name));
        for resource in [
            "",
            "/",
            &format!("{HOST}2"),
            &format!("{HOST}/extensions/x"),
            &HOST.replace("Microsoft.HybridCompute", "Microsoft.Compute"),
            &HOST.replace("Microsoft.HybridCompute/machines", "Microsoft.Compute/virtualMachines"),
            &HOST.replace("DB-1", ""),
            &HOST.replace("DB-1", "DB 1"),
            "/subscriptions/s/resourcegroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/n",
        ] {
            let token = signer.token(&of(resource));
            for claimed in [HOST, resource] {
                let refused = arc.prove(&token, claimed, &signer.keys(), NOW_MS);
                // What is a machine and claimed as such is one: only the first is another one.
                let same = is_machine(&resource.to_ascii_lowercase()) && claimed == resource;
                assert_eq!(refused.is_ok(), same, "{resource} {claimed}");
            }
        }
        let without = said(&issuer(TENANT), json!({ "tid": TENANT }));
        let refused = arc.prove(&signer.token(&without), HOST, &signer.keys(), NOW_MS);
        assert!(matches!(refused, Err(JwtError::Machine(_))));
    }
}
