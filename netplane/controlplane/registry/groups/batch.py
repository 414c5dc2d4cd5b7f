"""batch: what runs pods to their end."""

from __future__ import annotations

from netplane.controlplane.registry.groups.shared import ALL, STATUS, read
from netplane.controlplane.registry.types import ResourceType
from netplane.controlplane.registry.workloads import columns, cron, defaults, jobs, validate
from netplane.kube.types import Resource

_DEFINITIONS = "io.k8s.api.batch.v1."

TYPES = (
    ResourceType(
        resource=Resource("batch", "v1", "cronjobs", "CronJob"),
        singular="cronjob",
        definition=_DEFINITIONS + "CronJob",
        short_names=("cj",),
        subresources=(STATUS,),
        categories=ALL,
        has_generation=True,
        columns=columns.CRON_JOB,
        cells=columns.cron_job,
        default=defaults.cron_job,
        validate=validate.cron_job,
        validate_create=cron.times,
        validate_update=cron.times_update,
    ),
    ResourceType(
        resource=Resource("batch", "v1", "jobs", "Job"),
        singular="job",
        definition=_DEFINITIONS + "Job",
        subresources=(STATUS,),
        categories=ALL,
        has_generation=True,
        field_labels={"status.successful": read("status", "succeeded", default="0")},
        columns=columns.JOB,
        cells=columns.job,
        default=defaults.job,
        prepare_create=validate.prepare_job,
        validate=validate.job,
        validate_create=jobs.new_job,
        validate_update=validate.job_update,
    ),
)
