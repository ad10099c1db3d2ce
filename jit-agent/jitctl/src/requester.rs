//! The requester when the command line names none.

/// `user@hostname` of the user who runs the command; under sudo, of the user who ran sudo.
pub(crate) fn default_requester() -> Option<String> {
    let named = ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = named.or_else(|| {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        user_of(&users, rustix::process::getuid().as_raw())
    })?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(format!("{user}@{}", host.trim()))
}

/// The name of a user id in the text of passwd(5).
fn user_of(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number() {
        let users = "root:x:0:0:root:/root:/bin/bash\nbroken\nana:x:1000:1000::/home/ana:/bin/sh\n";
        assert_eq!(user_of(users, 1000).as_deref(), Some("ana"));
        assert_eq!(user_of(users, 7), None);
    }
}
