//! The nearest right spelling of a key or value that is refused.

use toml::de::DeValue;

/// The fewest letters that stand for the one word that begins with them.
const SHORTEST: usize = 3;

/// The word that was most likely meant, if one is near.
pub(super) fn near<'w>(typed: &str, words: &[&'w str]) -> Option<&'w str> {
    let typed = typed.to_lowercase();
    let mut begun = words.iter().filter(|word| typed.len() >= SHORTEST && word.starts_with(&typed));
    if let (Some(only), None) = (begun.next(), begun.next()) {
        return Some(only);
    }
    let distance = |word: &str| strsim::damerau_levenshtein(&typed, word);
    let nearest = words.iter().min_by_key(|word| distance(word))?;
    let most = 1 + typed.len() / 4;
    (distance(nearest) <= most && distance(nearest) < nearest.len()).then_some(*nearest)
}

/// The word of those that an error of the reader lists ("expected one of `a`, `b`").
pub(super) fn meant<'m>(message: &'m str, typed: &str) -> Option<&'m str> {
    let (_, listed) = message.split_once("expected ")?;
    let words: Vec<_> = listed.split('`').skip(1).step_by(2).collect();
    near(typed, &words)
}

/// The end of a sentence about a value or key that the reader refuses; empty if nothing is near.
/// `value`: what stands there, if it is a string.
pub(super) fn hint(message: &str, key: &str, value: &DeValue<'_>) -> String {
    let text = value.as_str().unwrap_or_default();
    let typed = message.split('`').nth(1).unwrap_or_default();
    if message.starts_with("unknown ") {
        let meant = meant(message, typed);
        return meant.map_or(String::new(), |word| format!("; did you mean `{word}`?"));
    }
    if message.contains("expected a sequence") && !text.is_empty() {
        let all: Vec<_> = text.split(',').map(|one| format!("{:?}", one.trim())).collect();
        return format!("; write [{}]", all.join(", "));
    }
    match (value, message) {
        (DeValue::Array(_), _) if key == "port" => {
            return "; write a [[port]] section for each port".into();
        }
        (DeValue::Datetime(_), _) => return "; write it in quotes".into(),
        (DeValue::String(_), message) if message.contains("expected a boolean") => {
            return "; write true or false, without quotes".into();
        }
        (DeValue::String(number), message)
            if message.contains("expected u") && number.parse::<u64>().is_ok() =>
        {
            return format!("; write {number}, without quotes");
        }
        _ => {}
    }
    if message.contains("integer") && message.contains("expected a string") {
        return match key {
            "max_duration" => "; write it in quotes with its unit, like \"90m\"".into(),
            _ => "; write it in quotes".into(),
        };
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_word_is_meant() {
        assert_eq!(near("TCP", &["tcp", "udp"]), Some("tcp"));
        assert_eq!(near("gaet", &["gate", "host"]), Some("gate"));
        assert_eq!(near("proto", &["port", "protocol"]), Some("protocol"));
        assert_eq!(
            near("gat", &["gate", "gates"]),
            Some("gate"),
            "by its letters, if two begin so"
        );
        assert_eq!(near("banana", &["gate", "host"]), None);
    }
}
