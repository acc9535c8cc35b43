//! domainmgr: owns the running domains. So far only the seam to the hypervisor is here.

pub mod vmm;
