//! What `check` says of protected ports that the host's own clients may send from.

use jit_proto::PortSection;

use crate::system::local_ports::LocalPorts;

/// Warnings, one a line.
pub(super) fn warnings(sections: &[PortSection]) -> String {
    let warnings = match LocalPorts::read() {
        Ok(ports) => ports.warnings(sections),
        Err(error) => vec![format!("cannot say whether a protected port is a client's: {error}")],
    };
    warnings.iter().map(|warning| format!("warning: {warning}\n")).collect()
}
