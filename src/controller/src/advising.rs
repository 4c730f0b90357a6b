//! Keeps the Plans in the cluster: what a person can approve now, and a few that no longer hold.

use jiff::Timestamp;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};
use plimsoll_api::plan::{Plan, PlanSpec};
use plimsoll_report::keeping::{Change, changes};

use crate::{
    context::Context,
    perform::{PerformError, bounded},
};

/// `now`: when the cluster was looked at that `advice` is for.
pub(crate) async fn keep<P>(
    context: &Context<P>,
    advice: Option<PlanSpec>,
    now: Timestamp,
) -> Result<(), PerformError> {
    let api = Api::<Plan>::all(context.client.clone());
    let params = PostParams::default();
    let known = bounded("list Plans", api.list(&ListParams::default())).await?;
    for change in changes(&known.items, advice, now) {
        match change {
            Change::Delete { name, uid } => {
                let exactly = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: Some(uid),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                bounded("delete a Plan", api.delete(&name, &exactly)).await?;
            }
            Change::Create(plan) => {
                let spec = &plan.spec;
                tracing::info!(
                    plan = plan.metadata.name,
                    buy = spec.machines_bought,
                    remove = spec.machines_removed,
                    pods = spec.pods,
                    saves_per_month = spec.saves.per_month,
                    "a plan to approve"
                );
                let made = bounded("create a Plan", api.create(&params, &plan)).await?;
                let next = Plan {
                    status: plan.status,
                    ..made
                };
                write_status(&api, next).await?;
            }
            Change::Status(plan) => write_status(&api, *plan).await?,
        }
    }
    Ok(())
}

async fn write_status(api: &Api<Plan>, plan: Plan) -> Result<(), PerformError> {
    let name = plan.metadata.name.clone().unwrap_or_default();
    let params = PostParams::default();
    bounded(
        "write the status of a Plan",
        api.replace_status(&name, &params, &plan),
    )
    .await?;
    Ok(())
}
