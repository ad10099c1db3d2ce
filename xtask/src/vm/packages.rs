//! Reads apt's descriptions of packages. Runs nothing.

/// One package as `apt-cache show` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Package {
    /// Its name.
    pub(super) name: String,
    /// Its version.
    pub(super) version: String,
    /// The packages that it needs in its own version: they were built together with it.
    pub(super) siblings: Vec<String>,
}

/// Reads the first package in the output of `apt-cache show`.
pub(super) fn package(shown: &str) -> Option<Package> {
    let mut package = Package::default();
    let mut depends = "";
    for line in shown.lines().take_while(|line| !line.trim().is_empty()) {
        let Some((field, value)) = line.split_once(": ") else { continue };
        match field {
            "Package" => value.clone_into(&mut package.name),
            "Version" => value.clone_into(&mut package.version),
            "Depends" => depends = value,
            _ => {}
        }
    }
    if package.name.is_empty() || package.version.is_empty() {
        return None;
    }
    let this_version = format!("(= {})", package.version);
    package.siblings = depends
        .split(',')
        .filter_map(|one| one.trim().split_once(' '))
        .filter(|(name, version)| name.starts_with("linux-") && *version == this_version)
        .map(|(name, _)| name.to_owned())
        .collect();
    Some(package)
}

/// Major and minor number of a kernel's release or version.
pub(super) fn kernel_number(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_siblings_of_the_same_version_are_followed() {
        let shown = "Package: linux-image-cloud-amd64\n\
                     Version: 7.2.13-1\n\
                     Depends: linux-base-cloud-amd64 (= 7.2.13-1), kmod, linux-base (>= 4.3~), \
                     linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1), initramfs-tools | dracut\n\
                     \n\
                     Package: linux-image-cloud-amd64\n\
                     Version: 7.0.1-1\n";
        let package = package(shown).unwrap();
        assert_eq!(
            (package.name.as_str(), package.version.as_str()),
            ("linux-image-cloud-amd64", "7.2.13-1")
        );
        let siblings = ["linux-base-cloud-amd64", "linux-image-7.2.13+deb14-cloud-amd64"];
        assert_eq!(package.siblings, siblings);
    }

    #[test]
    fn what_is_no_package_is_none() {
        assert_eq!(package(""), None);
        assert_eq!(package("N: Unable to locate package linux-image-cloud-amd64\n"), None);
        assert_eq!(package("Package: linux-image\n\nVersion: 1\n"), None);
    }

    #[test]
    fn kernel_numbers_compare_by_number() {
        assert_eq!(kernel_number("5.10.0-46-cloud-amd64"), Some((5, 10)));
        assert_eq!(kernel_number("6.12.117-1"), Some((6, 12)));
        assert!(kernel_number("6.12.1") > kernel_number("6.6"));
        assert_eq!(kernel_number("sid"), None);
    }
}
