//! What the API needs so that hosts enrol, read once from the files of `[enrolment]`.

use jit_client::{
    files::read_text,
    pem::{Holds, certificates},
};

use super::{
    attest::{azure::Azure, ec2::Ec2},
    keys::{ArcMachines, GcpInstances},
    proof::Method,
    settings::{AzureSettings, Ec2Settings, Settings},
};

/// `[enrolment]`, open.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The hubs that hosts dial.
    pub hubs: Vec<String>,
    /// The authorities by which hosts know the controller, PEM.
    pub hub_ca: String,
    /// EC2, if it is believed.
    pub ec2: Option<Ec2>,
    /// Virtual machines of Azure, if they are believed.
    pub azure: Option<Azure>,
    /// Machines of Azure Arc, if they are believed.
    pub arc: Option<ArcMachines>,
    /// Google Compute Engine, if it is believed.
    pub gcp: Option<GcpInstances>,
}

impl Opened {
    /// Clouds that are believed.
    pub fn believed(&self) -> Vec<Method> {
        let Self { ec2, azure, arc, gcp, .. } = self;
        let each = [
            (Method::Arc, arc.is_some()),
            (Method::Azure, azure.is_some()),
            (Method::Ec2, ec2.is_some()),
            (Method::Gcp, gcp.is_some()),
        ];
        each.into_iter().filter(|(_, is_there)| *is_there).map(|(cloud, _)| cloud).collect()
    }

    /// Reads the files. `None`: nobody enrols.
    ///
    /// # Errors
    /// The file, and why it cannot be used.
    pub fn open(settings: &Settings) -> Result<Option<Self>, String> {
        let Some(file) = &settings.hub_ca else { return Ok(None) };
        let hub_ca = read_text(file, "hub_ca of [enrolment]").map_err(|why| why.to_string())?;
        certificates(&hub_ca, Holds::One).map_err(|why| format!("{}: {why}", file.display()))?;
        Ok(Some(Self {
            hubs: settings.hubs.clone(),
            hub_ca,
            ec2: settings.ec2.as_ref().map(Ec2Settings::open).transpose()?,
            azure: settings.azure.as_ref().map(AzureSettings::open).transpose()?,
            arc: settings.arc.as_ref().map(ArcMachines::open).transpose()?,
            gcp: settings.gcp.as_ref().map(GcpInstances::open).transpose()?,
        }))
    }
}
