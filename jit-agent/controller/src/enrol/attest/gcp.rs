//! Google Compute Engine: an identity token of an instance, in its full format, for this
//! controller. Its service account and that account's address are nobody's machine, and are not
//! looked at.

use std::collections::BTreeSet;

use openidconnect::core::CoreJsonWebKeySet;
use serde::Deserialize;
use serde_json::Value;

use super::jwt::{self, Audience, JwtError};
use crate::enrol::proof::{Method, Proof};

/// Who signs such tokens.
pub const ISSUER: &str = "https://accounts.google.com";

/// Whose instances may enrol.
#[derive(Clone, Debug)]
pub struct Gcp {
    /// For whom their tokens are.
    pub audience: Audience,
    /// Projects, by their ids.
    pub projects: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Google {
    compute_engine: Instance,
}

#[derive(Deserialize)]
struct Instance {
    project_id: String,
    zone: String,
    instance_id: String,
    #[serde(default)]
    instance_name: String,
}

impl Gcp {
    /// That an instance is the host with its own name. `keys`: Google's.
    ///
    /// # Errors
    /// [`JwtError`]
    pub fn prove(
        &self,
        text: &str,
        keys: &CoreJsonWebKeySet,
        now_ms: i64,
    ) -> Result<Proof, JwtError> {
        let claims = jwt::claims(text, keys, ISSUER, &self.audience, now_ms)?;
        let none = |why: &str| {
            JwtError::Machine(format!("it names no instance (fetch it with format=full): {why}"))
        };
        let google = claims.get("google").cloned().unwrap_or(Value::Null);
        let read: Google = serde_json::from_value(google).map_err(|why| none(&why.to_string()))?;
        let Instance { project_id, zone, instance_id, instance_name } = read.compute_engine;
        let name = |text: &str| {
            (1..=64).contains(&text.len())
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-:.".contains(&b))
        };
        let is_number = (1..=20).contains(&instance_id.len())
            && instance_id.bytes().all(|b| b.is_ascii_digit());
        if !name(&project_id) || !name(&zone) || !is_number {
            return Err(none("its project, zone or instance has another form"));
        }
        if !self.projects.contains(&project_id) {
            return Err(JwtError::Machine(format!(
                "the project {project_id} is not among [enrolment.gcp] projects"
            )));
        }
        let host = format!(
            "//compute.googleapis.com/projects/{project_id}/zones/{zone}/instances/{instance_id}"
        );
        let mut facts =
            vec![("instance_id", instance_id), ("project_id", project_id), ("zone", zone)];
        if name(&instance_name) {
            facts.push(("instance_name", instance_name));
        }
        Ok(Proof::new(host.clone(), Method::Gcp, host, facts.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::enrol::attest::jwt::tests::{NOW_MS, Signer, audience, said};

    fn world() -> (Signer, Gcp) {
        let signer = Signer::new("google");
        let projects = ["prod-1".to_owned()].into();
        let gcp = Gcp { audience: audience(), projects };
        (signer, gcp)
    }

    fn instance(project: &str, zone: &str, id: &str) -> Value {
        json!({ "google": { "compute_engine": { "project_id": project, "zone": zone,
            "instance_id": id, "instance_name": "web-1", "project_number": 1 } },
            "email_verified": false })
    }

    #[test]
    fn an_instance_is_the_host_of_its_own_name() {
        let (signer, gcp) = world();
        let claims = said(ISSUER, instance("prod-1", "europe-west3-a", "8087716956832600000"));
        let proof = gcp.prove(&signer.token(&claims), &signer.keys(), NOW_MS).unwrap();
        let host = "//compute.googleapis.com/projects/prod-1/zones/europe-west3-a/instances/\
                    8087716956832600000";
        assert_eq!((proof.host_id(), proof.machine(), proof.method()), (host, host, Method::Gcp));
        assert_eq!(proof.facts()["instance_name"], "web-1");
    }

    #[test]
    fn other_projects_issuers_and_formats_prove_nothing() {
        let (signer, gcp) = world();
        let other = said(ISSUER, instance("prod-2", "europe-west3-a", "1"));
        let refused = gcp.prove(&signer.token(&other), &signer.keys(), NOW_MS);
        assert!(matches!(&refused, Err(JwtError::Machine(why)) if why.contains("prod-2")));
        let other = said("accounts.google.com", instance("prod-1", "europe-west3-a", "1"));
        assert_eq!(gcp.prove(&signer.token(&other), &signer.keys(), NOW_MS), Err(JwtError::Issuer));
        for bad in [
            json!({}),
            json!({ "google": {} }),
            json!({ "google": { "compute_engine": [] } }),
            instance("prod-1", "europe-west3-a", "1/../2"),
            instance("prod-1", "europe-west3-a/instances/7", "1"),
            instance("prod-1", "", "1"),
            instance("prod-1", "europe-west3-a", ""),
            instance("prod-1/zones/z", "europe-west3-a", "1"),
        ] {
            let refused =
                gcp.prove(&signer.token(&said(ISSUER, bad.clone())), &signer.keys(), NOW_MS);
            assert!(matches!(refused, Err(JwtError::Machine(_))), "{bad}");
        }
    }
}
