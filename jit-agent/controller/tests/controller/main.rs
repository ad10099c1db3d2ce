//! The controller with a real database: each test runs on SQLite and on Postgres.

#[macro_use]
mod databases;

mod store;
