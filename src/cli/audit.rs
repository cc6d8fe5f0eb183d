//! The flags of the audit log, which `up` passes on to its server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use crate::apiserver::audit::Audit;
use crate::apiserver::audit::log::{Log, LogConfig};
use crate::apiserver::audit::policy::Policy;

const BYTES_PER_MEGABYTE: u64 = 1024 * 1024;

/// What is logged of requests, and where.
#[derive(Debug, clap::Args)]
pub struct AuditFlags {
    /// The policy of the audit log: a file with a Policy of audit.k8s.io/v1.
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    audit_policy_file: Option<PathBuf>,
    /// Where the audit log is written; "-" is the standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// The size in megabytes at which the audit log is put aside and begun anew; 0 is never.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    audit_log_maxsize: u64,
    /// How many old audit logs are kept; 0 is all.
    #[arg(long, value_name = "N", default_value_t = 10)]
    audit_log_maxbackup: usize,
}

impl AuditFlags {
    /// Reads the policy and opens the log; `None` where nothing is to be logged.
    pub fn open(&self) -> Result<Option<Arc<Audit>>> {
        let (Some(policy), Some(path)) = (&self.audit_policy_file, &self.audit_log_path) else { return Ok(None) };
        let config = LogConfig {
            path: path.clone(),
            max_bytes: self.audit_log_maxsize.saturating_mul(BYTES_PER_MEGABYTE),
            max_backups: self.audit_log_maxbackup,
        };
        Ok(Some(Arc::new(Audit::new(Policy::read(policy)?, Log::open(config)?))))
    }

    /// The same flags for a server, once they have been found good.
    pub fn checked_flags(&self) -> Result<Vec<String>> {
        let (Some(policy), Some(path)) = (&self.audit_policy_file, &self.audit_log_path) else { return Ok(Vec::new()) };
        Policy::read(policy)?;
        let path = if path.as_os_str() == "-" { path.clone() } else { std::path::absolute(path)? };
        Ok(vec![
            format!("--audit-policy-file={}", std::path::absolute(policy)?.display()),
            format!("--audit-log-path={}", path.display()),
            format!("--audit-log-maxsize={}", self.audit_log_maxsize),
            format!("--audit-log-maxbackup={}", self.audit_log_maxbackup),
        ])
    }
}
