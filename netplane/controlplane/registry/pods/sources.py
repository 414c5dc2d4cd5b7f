"""Where volumes have their data: what each source needs, of a pod's volumes and of PersistentVolumes alike.

Source: validateVolumeSource and ValidatePersistentVolumeSpec of k8s.io/kubernetes/pkg/apis/core/validation.
"""

from __future__ import annotations

from netplane.controlplane.registry import faults
from netplane.controlplane.registry.faults import Fault
from netplane.controlplane.registry.rules import names
from netplane.kube.types import Object

_NEEDED = {
    "awsElasticBlockStore": ("volumeID",), "azureDisk": ("diskName", "diskURI"),
    "azureFile": ("secretName", "shareName"), "cephfs": ("monitors",), "cinder": ("volumeID",), "configMap": ("name",),
    "csi": ("driver",), "flexVolume": ("driver",), "gcePersistentDisk": ("pdName",), "gitRepo": ("repository",),
    "glusterfs": ("endpoints", "path"), "hostPath": ("path",), "image": ("reference",),
    "iscsi": ("targetPortal", "iqn"), "nfs": ("server", "path"), "persistentVolumeClaim": ("claimName",),
    "photonPersistentDisk": ("pdID",), "portworxVolume": ("volumeID",), "quobyte": ("registry", "volume"),
    "rbd": ("monitors", "image"), "scaleIO": ("gateway", "system", "volumeName"), "secret": ("secretName",),
    "storageos": ("volumeName",), "vsphereVolume": ("volumePath",),
}  # fmt: skip
_MORE_OF_VOLUMES = {"csi": ("volumeHandle",), "local": ("path",)}
_HOST_PATH_TYPES = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_LUN = "must be between 0 and 255, inclusive"


def source_faults(kind: str, source: Object, path: str) -> list[Fault]:
    """Return every fault of a source that a pod names itself."""
    needed = _NEEDED.get(kind, ())
    return [faults.required(f"{path}.{each}") for each in needed if not source.get(each)] + _special(kind, source, path)


def volume_source_faults(kind: str, source: Object, path: str) -> list[Fault]:
    """Return every fault of a PersistentVolume's source."""
    needed = (*_NEEDED.get(kind, ()), *_MORE_OF_VOLUMES.get(kind, ()))
    found = [faults.required(f"{path}.{each}") for each in needed if not source.get(each)]
    if kind == "local" and ".." in source.get("path", "").split("/"):
        found.append(faults.invalid(f"{path}.path", source["path"], "must not contain '..'"))
    return found + _special(kind, source, path)


def _special(kind: str, source: Object, path: str) -> list[Fault]:
    found: list[Fault] = []
    if kind == "hostPath":
        found += _host_path(source, path)
    elif kind == "nfs" and source.get("path") and not source["path"].startswith("/"):
        found.append(faults.invalid(f"{path}.path", source["path"], "must be an absolute path"))
    elif kind == "iscsi" and not 0 <= source.get("lun", 0) <= 255:
        found.append(faults.invalid(f"{path}.lun", source["lun"], _LUN))
    elif kind == "fc":
        found += _fibre_channel(source, path)
    elif kind in ("gcePersistentDisk", "awsElasticBlockStore") and not 0 <= source.get("partition", 0) <= 255:
        found.append(faults.invalid(f"{path}.partition", source["partition"], _LUN))
    elif kind == "csi" and source.get("driver"):
        driver = source["driver"]
        found += [faults.invalid(f"{path}.driver", driver, each) for each in names.subdomain(driver.lower())]
    elif kind == "image" and source.get("pullPolicy") not in (None, *_PULL_POLICIES):
        found.append(faults.not_supported(f"{path}.pullPolicy", source["pullPolicy"], _PULL_POLICIES))
    elif kind == "flocker" and not (source.get("datasetName") or source.get("datasetUUID")):
        found.append(faults.required(path, "one of datasetName and datasetUUID is required"))
    return found


def _host_path(source: Object, path: str) -> list[Fault]:
    """A path on the node stays where it says, and is of a known type."""
    found: list[Fault] = []
    if ".." in source.get("path", "").split("/"):
        found.append(faults.invalid(f"{path}.path", source["path"], "must not contain '..'"))
    if source.get("type", "") not in _HOST_PATH_TYPES:
        found.append(faults.not_supported(f"{path}.type", source["type"], _HOST_PATH_TYPES))
    return found


def _fibre_channel(source: Object, path: str) -> list[Fault]:
    targets, identifiers = source.get("targetWWNs") or [], source.get("wwids") or []
    at = f"{path}.targetWWNs"
    if not targets and not identifiers:
        return [faults.required(at, "must specify either targetWWNs or wwids, but not both")]
    if targets and identifiers:
        return [faults.invalid(at, targets, "targetWWNs and wwids can not be specified simultaneously")]
    if targets and "lun" not in source:
        return [faults.required(f"{path}.lun", "lun is required if targetWWNs is specified")]
    if targets and not 0 <= source["lun"] <= 255:
        return [faults.invalid(f"{path}.lun", source["lun"], _LUN)]
    return []
