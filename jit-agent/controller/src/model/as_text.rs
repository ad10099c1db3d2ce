//! Values in JSON in the form in which people write them: `22/tcp`, `203.0.113.7/32`.

/// Lists of them: `#[serde(with = "as_text::list")]`.
pub mod list {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// Writes a list of texts.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Display, S: Serializer>(
        values: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    /// Reads a list of texts.
    ///
    /// # Errors
    /// A text that is not such a value, with the reason.
    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let read =
            |text: String| text.parse().map_err(|why| D::Error::custom(format!("{text}: {why}")));
        texts.into_iter().map(read).collect()
    }
}
