//! What is wrong in a policy, and where.

/// A mistake, and the line where it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// From 1; 0: it is about no line alone.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) source: String,
}

/// Longest line that is shown beside a mistake, characters.
const LONGEST: usize = 160;

/// The mistakes in what the reader of policies says of a text: `line N: WHY` on each line, or what
/// the reader of TOML says, with the line and the column in front and a picture of the place.
pub(super) fn read(why: &str, policy: &str) -> Vec<Mistake> {
    let why = why.split_once("cannot be used: ").map_or(why, |(_, why)| why);
    let mistake = |line: usize, text: &str| {
        let source = policy.lines().nth(line.wrapping_sub(1)).unwrap_or_default();
        let source = source.chars().take(LONGEST).collect();
        Mistake { line, text: text.to_owned(), source }
    };
    if let Some(rest) = why.strip_prefix("TOML parse error at line ") {
        let (place, rest) = rest.split_once('\n').unwrap_or((rest, ""));
        let place = place.split(',').next().unwrap_or_default();
        let is_picture = |line: &&str| {
            line.split_once('|').is_some_and(|(number, _)| {
                number.bytes().all(|byte| byte == b' ' || byte.is_ascii_digit())
            })
        };
        let text: Vec<_> = rest.lines().filter(|line| !is_picture(line)).collect();
        return vec![mistake(place.parse().unwrap_or(0), &text.join(" "))];
    }
    why.lines()
        .map(|line| {
            let placed = line.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
            match placed.and_then(|(number, text)| Some((number.parse().ok()?, text))) {
                Some((number, text)) => mistake(number, text),
                None => mistake(0, line),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::rollouts::check_policy;

    fn of(policy: &str) -> Vec<(usize, String, String)> {
        let why = check_policy(policy).unwrap_err().to_string();
        let mistakes = read(&why, policy).into_iter();
        mistakes.map(|mistake| (mistake.line, mistake.text, mistake.source)).collect()
    }

    #[test]
    fn each_mistake_has_its_line() {
        let broken = of("[[port]]\nports = \n");
        assert_eq!((broken.len(), broken[0].0, broken[0].2.as_str()), (1, 2, "ports = "));
        assert!(!broken[0].1.is_empty() && !broken[0].1.contains('|'), "{broken:?}");
        let unknown = of("[[port]]\nport = 22\ncolour = \"red\"\n");
        assert_eq!((unknown[0].0, unknown[0].2.as_str()), (3, "colour = \"red\""), "{unknown:?}");
        let section = "[[port]]\nport = 22\nprotocol = \"tcp\"\nsources = [\"192.0.2.0/24\"]\n";
        let wrong = of(&format!("{section}max_duration = \"soon\"\n"));
        assert_eq!(wrong[0].0, 5, "{wrong:?}");
        let whole = of("version = 3\n");
        assert_eq!(whole[0].0, 0);
        assert!(whole[0].1.contains("leave them out"), "{whole:?}");
    }
}
