//! What a path names. Names are compared without case; they are kept as they are written first.

use jit_client::controller::defender::PolicyId;

use crate::store::DefenderPolicy;

/// The longest name, letters.
const MAX_NAME: usize = 90;

/// What a path below `/subscriptions/` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Policies of a subscription, or of a part of it.
    List(Within),
    /// A policy.
    Policy(Name),
    /// Asking for access by a policy.
    Initiate(Name),
}

/// A part of a subscription, in small letters; empty: all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Within {
    pub(super) subscription: String,
    pub(super) group: String,
    pub(super) location: String,
}

/// The name of a policy, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) subscription: String,
    pub(super) group: String,
    pub(super) location: String,
    pub(super) policy: String,
}

impl Place {
    /// The place of a path, without `/subscriptions/`; `None`: there is no such.
    pub(super) fn parse(rest: &str) -> Option<Self> {
        let parts: Vec<_> = rest.trim_end_matches('/').split('/').collect();
        let (subscription, parts) = parts.split_first()?;
        let is = |part: &&str, word: &str| part.eq_ignore_ascii_case(word);
        let (group, parts) = match parts {
            [word, group, parts @ ..] if is(word, "resourceGroups") => (Some(*group), parts),
            parts => (None, parts),
        };
        let parts = match parts {
            [word, provider, parts @ ..]
                if is(word, "providers") && is(provider, "Microsoft.Security") =>
            {
                parts
            }
            _ => return None,
        };
        let (location, parts) = match parts {
            [word, location, parts @ ..] if is(word, "locations") => (Some(*location), parts),
            parts => (None, parts),
        };
        let [word, names @ ..] = parts else { return None };
        let all = [Some(*subscription), group, location];
        let all = all.into_iter().flatten().chain(names.iter().copied());
        if !is(word, "jitNetworkAccessPolicies") || !all.into_iter().all(is_name) {
            return None;
        }
        let name = |policy: &str| {
            Some(Name {
                subscription: (*subscription).to_owned(),
                group: group?.to_owned(),
                location: location?.to_owned(),
                policy: policy.to_owned(),
            })
        };
        match names {
            [] => Some(Self::List(Within {
                subscription: small(subscription),
                group: small(group.unwrap_or_default()),
                location: small_location(location.unwrap_or_default()),
            })),
            [policy] => name(policy).map(Self::Policy),
            [policy, verb] if is(verb, "initiate") => name(policy).map(Self::Initiate),
            _ => None,
        }
    }
}

impl Name {
    /// Under which it is kept.
    pub(super) fn key(&self) -> String {
        let Self { subscription, group, location, policy } = self;
        let location = small_location(location);
        format!("{}/{}/{location}/{}", small(subscription), small(group), small(policy))
    }
}

/// The path of a policy.
pub(super) fn id(stored: &DefenderPolicy) -> PolicyId {
    PolicyId {
        subscription: stored.subscription.clone(),
        resource_group: stored.resource_group.clone(),
        location: stored.location.clone(),
        name: stored.name.clone(),
    }
}

/// `West Europe` is `westeurope`.
pub(super) fn small_location(text: &str) -> String {
    small(text).replace(' ', "")
}

fn small(text: &str) -> String {
    text.to_ascii_lowercase()
}

/// Azure's letters for names of resource groups are the widest.
fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.() ".contains(&byte);
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIPTION: &str = "20ff7fc3-e762-44dd-bd96-b71116dcdc23";

    #[test]
    fn every_documented_path_is_known_in_any_case() {
        let security = "providers/Microsoft.Security";
        let list = |group: &str, location: &str| {
            Place::List(Within {
                subscription: SUBSCRIPTION.into(),
                group: group.into(),
                location: location.into(),
            })
        };
        for (path, place) in [
            (format!("{security}/jitNetworkAccessPolicies"), list("", "")),
            (
                format!("{security}/locations/West Europe/jitNetworkAccessPolicies"),
                list("", "westeurope"),
            ),
            (format!("resourceGroups/RG1/{security}/jitnetworkaccesspolicies/"), list("rg1", "")),
            (
                format!(
                    "RESOURCEGROUPS/rg1/{security}/locations/westeurope/JitNetworkAccessPolicies"
                ),
                list("rg1", "westeurope"),
            ),
        ] {
            assert_eq!(Place::parse(&format!("{SUBSCRIPTION}/{path}")), Some(place), "{path}");
        }
        let policy = format!(
            "{SUBSCRIPTION}/resourcegroups/Rg1/Providers/microsoft.security/Locations/westeurope/\
             jitNetworkAccessPolicies/Default"
        );
        let Some(Place::Policy(name)) = Place::parse(&policy) else { panic!("{policy}") };
        assert_eq!(name.key(), format!("{SUBSCRIPTION}/rg1/westeurope/default"));
        assert_eq!(Place::parse(&format!("{policy}/Initiate")), Some(Place::Initiate(name)));
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            "s",
            "s/providers/Microsoft.Compute/jitNetworkAccessPolicies",
            "s/providers/Microsoft.Security/jitNetworkAccessPolicies/default",
            "s/resourceGroups/g/providers/Microsoft.Security/jitNetworkAccessPolicies/default",
            "s/resourceGroups/g/providers/Microsoft.Security/locations/l/alerts",
            "s/resourceGroups/g/providers/Microsoft.Security/locations/l/jitNetworkAccessPolicies/p/x",
            "s/resourceGroups/g/providers/Microsoft.Security/locations//jitNetworkAccessPolicies/p",
            "s/resourceGroups/%2e/providers/Microsoft.Security/locations/l/jitNetworkAccessPolicies/p",
        ] {
            assert_eq!(Place::parse(path), None, "{path}");
        }
    }
}
