//! A file of policies, as tools export them: a list, an answer with `value`, or one policy; UTF-8,
//! or UTF-16 as older shells of Windows write it.

use serde_json::Value;

use super::{
    policy::{LeftOut, Policy},
    read::Mistake,
};

/// A policy of a file, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `value[3]`; empty: it is the only one.
    pub place: String,
    /// The policy.
    pub policy: Policy,
    /// What of it cannot be carried over, with places from the file's top.
    pub left: Vec<LeftOut>,
}

/// Reads a file.
///
/// # Errors
/// It is no JSON, or a policy in it cannot be read: a sentence with its place.
pub fn policies(bytes: &[u8]) -> Result<Vec<Listed>, String> {
    let text = decoded(bytes)?;
    let value: Value =
        serde_json::from_str(&text).map_err(|why| format!("it is no JSON: {why}"))?;
    let list = value.as_object().and_then(|fields| {
        let mut fields = fields.iter();
        let (_, list) = fields.find(|(name, _)| name.eq_ignore_ascii_case("value"))?;
        list.as_array().map(|list| ("value", list))
    });
    let (name, list) = match (list, value.as_array()) {
        (Some((name, list)), _) => (name, list.as_slice()),
        (None, Some(list)) => ("", list.as_slice()),
        (None, None) => return Ok(vec![listed(String::new(), &value)?]),
    };
    let each = list.iter().enumerate();
    each.map(|(number, value)| listed(format!("{name}[{number}]"), value)).collect()
}

fn listed(place: String, value: &Value) -> Result<Listed, String> {
    let below = |inner: &str| match (place.as_str(), inner) {
        ("", inner) => inner.to_owned(),
        (place, "the body") => place.to_owned(),
        (place, inner) => format!("{place}.{inner}"),
    };
    let mut left = Vec::new();
    let policy = Policy::read_with(value, &mut left).map_err(|Mistake { place, why }| {
        let depth = match value_is_cut(value) {
            true => "; ConvertTo-Json has cut it: export with ConvertTo-Json -Depth 10",
            false => "",
        };
        format!("{}: {why}{depth}", below(&place))
    })?;
    let left = left.into_iter();
    let left = left.map(|left| LeftOut { place: below(&left.place), why: left.why }).collect();
    Ok(Listed { place, policy, left })
}

/// `ConvertTo-Json` writes what is deeper than it goes as a text such as `@{Number=22; ...}`.
fn value_is_cut(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(value_is_cut),
        Value::Object(fields) => fields.values().any(value_is_cut),
        Value::String(text) => {
            ["@{", "System.", "Microsoft.Azure.Commands."].iter().any(|cut| text.starts_with(cut))
        }
        _ => false,
    }
}

/// The text of a file, by its byte order mark.
fn decoded(bytes: &[u8]) -> Result<String, String> {
    let units = |of: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let pairs = bytes.chunks(2);
        let units = pairs.map(|pair| <[u8; 2]>::try_from(pair).map(of));
        let units = units.collect::<Result<Vec<_>, _>>().ok();
        units.and_then(|units| String::from_utf16(&units).ok())
    };
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => units(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => units(u16::from_be_bytes, rest),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        rest => String::from_utf8(rest.to_vec()).ok(),
    };
    text.ok_or_else(|| "it is neither UTF-8 nor UTF-16".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str) -> Value {
        json!({"Name": name, "VirtualMachines": [{"Id": "/a/vm1", "PublicIpAddress": "192.0.2.1",
            "Ports": [{"Number": 22, "MaxRequestAccessDuration": "PT3H"}]}]})
    }

    #[test]
    fn every_form_of_a_file_is_read() {
        let list = json!([policy("a"), policy("b")]);
        let places = |bytes: &[u8]| {
            let read = policies(bytes).unwrap();
            let both = read.iter().map(|one| (one.place.clone(), one.left[0].place.clone()));
            both.collect::<Vec<_>>()
        };
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
        };
        let address = "virtualMachines[0].publicIpAddress";
        let value = json!({"value": list, "nextLink": null}).to_string();
        let of_value = owned(&[
            ("value[0]", &format!("value[0].{address}")),
            ("value[1]", &format!("value[1].{address}")),
        ]);
        assert_eq!(places(value.as_bytes()), of_value);
        let of_list =
            owned(&[("[0]", &format!("[0].{address}")), ("[1]", &format!("[1].{address}"))]);
        assert_eq!(places(list.to_string().as_bytes()), of_list);
        assert_eq!(places(policy("a").to_string().as_bytes()), owned(&[("", address)]));
        // What `>` of Windows PowerShell writes, and what Out-File -Encoding utf8 does.
        let text = format!("\u{feff}{list}");
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(places(&wide), of_list);
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(places(&wide), of_list);
        assert_eq!(places(text.as_bytes()), of_list);
        assert!(policies(b"[]").unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_read_has_its_place_and_a_way_out() {
        for (bytes, says) in [
            (&b"{"[..], "it is no JSON"),
            (&[0xff, 0xfe, 0x00][..], "neither UTF-8 nor UTF-16"),
            (&[0x80][..], "neither UTF-8 nor UTF-16"),
            (&br#"[{"virtualMachines": 1}]"#[..], "[0].virtualMachines: a list [...] belongs here"),
            (&br#"[7]"#[..], "[0]: an object {...} belongs here"),
            (
                &br#"{"VirtualMachines": [{"Id": "/a/vm1", "Ports": ["@{Number=22}"]}]}"#[..],
                "export with ConvertTo-Json -Depth 10",
            ),
        ] {
            let why = policies(bytes).unwrap_err();
            assert!(why.contains(says), "{why}");
        }
    }
}
