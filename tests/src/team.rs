//! Sets the mode of a team device by generic netlink, as `teamd` does (`linux/if_team.h`).

use crate::{
    genetlink::{Conversation, NESTED, attribute},
    netns::Namespace,
};

const TEAM_CMD_OPTIONS_SET: u8 = 1;
const TEAM_ATTR_TEAM_IFINDEX: u16 = 1;
const TEAM_ATTR_LIST_OPTION: u16 = 2 | NESTED;
const TEAM_ATTR_ITEM_OPTION: u16 = 1 | NESTED;
const TEAM_ATTR_OPTION_NAME: u16 = 1;
const TEAM_ATTR_OPTION_TYPE: u16 = 3;
const TEAM_ATTR_OPTION_DATA: u16 = 4;
/// `NLA_STRING` of `net/netlink.h`.
const STRING: u8 = 5;

/// Sets the mode, such as `roundrobin`, of a team that has no ports yet.
pub fn set_mode(namespace: &Namespace, device: &str, mode: &str) {
    let option = [
        attribute(TEAM_ATTR_OPTION_NAME, b"mode\0"),
        attribute(TEAM_ATTR_OPTION_TYPE, &[STRING]),
        attribute(TEAM_ATTR_OPTION_DATA, format!("{mode}\0").as_bytes()),
    ];
    let all = [
        attribute(TEAM_ATTR_TEAM_IFINDEX, &namespace.index(device).to_ne_bytes()),
        attribute(TEAM_ATTR_LIST_OPTION, &attribute(TEAM_ATTR_ITEM_OPTION, &option.concat())),
    ];
    namespace.run(|| Conversation::with("team").order(TEAM_CMD_OPTIONS_SET, &all.concat()));
}
