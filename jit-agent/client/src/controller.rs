//! The controller's API as its clients see it: the JSON of `/api/v1`.

pub mod types;
