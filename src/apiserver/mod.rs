//! The apiserver room.

pub mod auth;
pub mod serve;
