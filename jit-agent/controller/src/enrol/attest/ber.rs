//! The few rules of ASN.1 that a signed document needs (X.690): values one after the other, with a
//! length or, as EC2 writes them, up to an end mark. It never copies, and never panics.
//!
//! The reader of the crate for certificates would do: it takes lengths that are longer than they
//! need to be, tags of any number, and fifty levels. What comes from a stranger has one spelling
//! here.

/// The deepest nesting of values without a length: EC2's have five.
const DEEPEST: usize = 8;

pub(super) const BIT_OF_PARTS: u8 = 0x20;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;
/// `[0]`, of parts.
pub(super) const FIRST: u8 = 0xa0;
/// `[1]`, of parts.
pub(super) const SECOND: u8 = 0xa1;

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value<'b> {
    /// Class, form and number.
    pub(super) tag: u8,
    /// Its content, without an end mark.
    pub(super) content: &'b [u8],
    /// All of it.
    pub(super) whole: &'b [u8],
}

/// It is no such value: where nobody can say more, nobody needs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Values that are not read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    pub(super) const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next value.
    pub(super) fn next(&mut self) -> Result<Value<'b>, Malformed> {
        let (value, rest) = split(self.0, DEEPEST)?;
        self.0 = rest;
        Ok(value)
    }

    /// The next value, which has this tag.
    pub(super) fn take(&mut self, tag: u8) -> Result<Value<'b>, Malformed> {
        let value = self.next()?;
        if value.tag == tag { Ok(value) } else { Err(Malformed) }
    }

    /// The next value if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Result<Option<Value<'b>>, Malformed> {
        match self.0.first() {
            Some(first) if *first == tag => self.next().map(Some),
            _ => Ok(None),
        }
    }

    /// Nothing is left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

impl<'b> Value<'b> {
    /// Its parts.
    pub(super) const fn parts(self) -> Reader<'b> {
        Reader::new(self.content)
    }
}

/// A text of octets, in one piece or in several (X.690 section 8.7).
pub(super) fn octets(value: Value<'_>) -> Result<Vec<u8>, Malformed> {
    if value.tag == OCTETS {
        return Ok(value.content.to_vec());
    }
    if value.tag != OCTETS | BIT_OF_PARTS {
        return Err(Malformed);
    }
    let mut parts = value.parts();
    let mut all = Vec::new();
    while !parts.is_empty() {
        all.extend_from_slice(parts.take(OCTETS)?.content);
    }
    Ok(all)
}

/// A set with this content, as DER writes it.
pub(super) fn der_set(content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length: Vec<_> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut all = vec![SET];
    match (length.as_slice(), u8::try_from(length.len())) {
        ([], _) => all.push(0),
        ([short], _) if *short < 0x80 => all.push(*short),
        (long, count) => {
            all.push(0x80 | count.expect("a length has eight bytes at most"));
            all.extend_from_slice(long);
        }
    }
    all.extend_from_slice(content);
    all
}

/// The first value, and what is after it.
fn split(bytes: &[u8], deepest: usize) -> Result<(Value<'_>, &[u8]), Malformed> {
    let [tag, length, rest @ ..] = bytes else { return Err(Malformed) };
    // No number of a tag here needs a second byte, and 0 is the tag of an end mark.
    if tag & 0x1f == 0x1f || *tag == 0 {
        return Err(Malformed);
    }
    let (content, after) = match *length {
        0x80 => until_mark(*tag, rest, deepest)?,
        short if short < 0x80 => rest.split_at_checked(short.into()).ok_or(Malformed)?,
        long => {
            let count = usize::from(long & 0x7f);
            let (digits, rest) = rest.split_at_checked(count).ok_or(Malformed)?;
            // Three digits are 16 MiB. The first is not 0, and one digit is for what a short length
            // has no room for.
            let is_one = match digits {
                [one] => *one >= 0x80,
                [first, _] | [first, _, _] => *first != 0,
                _ => false,
            };
            if !is_one {
                return Err(Malformed);
            }
            let length = digits.iter().fold(0_usize, |sum, digit| sum << 8 | usize::from(*digit));
            rest.split_at_checked(length).ok_or(Malformed)?
        }
    };
    let whole = bytes.get(..bytes.len() - after.len()).ok_or(Malformed)?;
    Ok((Value { tag: *tag, content, whole }, after))
}

/// The content of a value without a length, and what is after its end mark.
fn until_mark(tag: u8, bytes: &[u8], deepest: usize) -> Result<(&[u8], &[u8]), Malformed> {
    let deepest = deepest.checked_sub(1).ok_or(Malformed)?;
    if tag & BIT_OF_PARTS == 0 {
        return Err(Malformed);
    }
    let mut rest = bytes;
    loop {
        if let [0, 0, after @ ..] = rest {
            let content = bytes.get(..bytes.len() - rest.len()).ok_or(Malformed)?;
            return Ok((content, after));
        }
        rest = split(rest, deepest)?.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Result<Value<'_>, Malformed> {
        let mut reader = Reader::new(bytes);
        let value = reader.next()?;
        reader.end()?;
        Ok(value)
    }

    #[test]
    fn a_length_has_one_spelling() {
        assert_eq!(one(&[4, 1, 7]).unwrap().content, [7]);
        let long = [&[4, 0x81, 0x80][..], &[7; 0x80]].concat();
        assert_eq!(one(&long).unwrap().content.len(), 0x80);
        let longer = [&[4, 0x82, 1, 0][..], &[7; 0x100]].concat();
        assert_eq!(one(&longer).unwrap().content.len(), 0x100);
        for bad in [
            &[][..],
            &[4],
            &[4, 1],
            &[4, 0x81, 1, 7],
            &[4, 0x82, 0, 1, 7],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[4, 0xff],
            &[4, 1, 7, 0],
            &[0, 0],
            &[0x1f, 1, 7],
        ] {
            assert_eq!(one(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn a_value_without_a_length_ends_at_its_mark() {
        let value = one(&[0x30, 0x80, 4, 1, 7, 0x30, 0x80, 0, 0, 0, 0]).unwrap();
        assert_eq!(value.content, [4, 1, 7, 0x30, 0x80, 0, 0]);
        // One of no parts has a length, and nothing is nested without an end.
        for bad in [&[4, 0x80, 0, 0][..], &[0x30, 0x80, 4, 1, 7], &[0x30, 0x80, 0]] {
            assert_eq!(one(bad), Err(Malformed), "{bad:?}");
        }
        let nested = |depth: usize| [[0x30, 0x80].repeat(depth), [0, 0].repeat(depth)].concat();
        assert!(one(&nested(DEEPEST)).is_ok());
        assert!(one(&nested(DEEPEST + 1)).is_err());
        assert!(one(&[0x30, 0x80].repeat(30_000)).is_err());
    }

    #[test]
    fn octets_in_pieces_are_one_text() {
        let pieces = one(&[0x24, 0x80, 4, 1, 7, 4, 2, 8, 9, 0, 0]).unwrap();
        assert_eq!(octets(pieces).unwrap(), [7, 8, 9]);
        // A piece of pieces is what nobody writes.
        assert!(octets(one(&[0x24, 5, 0x24, 3, 4, 1, 7]).unwrap()).is_err());
        assert!(octets(one(&[2, 1, 7]).unwrap()).is_err());
    }

    #[test]
    fn a_set_is_written_with_the_shortest_length() {
        assert_eq!(der_set(&[]), [SET, 0]);
        for length in [1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![5; length];
            let set = der_set(&content);
            assert_eq!(one(&set).unwrap().content, content);
        }
    }
}
