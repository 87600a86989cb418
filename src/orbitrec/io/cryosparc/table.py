"""cryoSPARC's particle tables (.cs): one numpy record for each particle, fields named ``group/value``."""

import dataclasses
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

from orbitrec.errors import InputError
from orbitrec.io.aberrations import CRYOSPARC_FIELDS, cryosparc_aberrations
from orbitrec.io.cryosparc.job import ResultGroup, described, read_output, table_of
from orbitrec.io.files import replacing
from orbitrec.io.particle_table import (
    Dialect,
    ImageSources,
    ParticleStatistics,
    given_or_stated_pixel_A,
    given_over_stated_pixel,
    split_or_none,
)
from orbitrec.io.physics import checked_pixel_sizes_A, ctf_of_columns, doubtful_values
from orbitrec.models.aberrations import Aberrations
from orbitrec.models.ctf import CTFParameters

CTF_FIELDS = {
    "defocus_u_A": "ctf/df1_A",
    "defocus_v_A": "ctf/df2_A",
    "defocus_angle_deg": "ctf/df_angle_rad",
    "voltage_kV": "ctf/accel_kv",
    "cs_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "phase_shift_deg": "ctf/phase_shift_rad",
}
_UNMODELLED = {
    **dict.fromkeys(["ctf/tilt_A", "ctf/shift_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag", "ctf/bfactor"], 0.0),
    "ctf/scale": 1.0,
}
# What cryoSPARC's refinements write for a particle; those not set here are zero.
_ALIGNMENT_FIELDS = {
    "split": "<u4", "shift": ("<f4", (2,)), "pose": ("<f4", (3,)), "psize_A": "<f4", "error": "<f4",
    "error_min": "<f4", "resid_pow": "<f4", "slice_pow": "<f4", "image_pow": "<f4", "cross_cor": "<f4",
    "alpha": "<f4", "alpha_min": "<f4", "weight": "<f4", "pose_ess": "<f4", "shift_ess": "<f4",
    "class_posterior": "<f4", "class": "<u4", "class_ess": "<f4",
}  # fmt: skip
_IMAGE_FIELDS = ["blob/path", "blob/idx", "blob/psize_A"]
POSE, SPLIT = "alignments3D/pose", "alignments3D/split"
SHIFT, SHIFT_PIXEL = "alignments3D/shift", "alignments3D/psize_A"


@dataclass(frozen=True, eq=False)
class CryosparcTable:
    """The N records of a .cs file, joined with those of the files that belong to it.

    Attributes:
        path: the table.
        records: one numpy record for every particle.
        given_pixel_size_A: pixel size in Å that replaces the file's; None keeps the file's.
        types: cryoSPARC's types of groups of fields, as far as they were told.
    """

    path: Path
    records: np.ndarray
    given_pixel_size_A: float | None = None
    types: dict[str, str] = dataclasses.field(default_factory=dict)
    dialect: Dialect = Dialect.CRYOSPARC
    suffix: str = ".cs"
    companions: tuple[str, ...] = (".csg",)

    @classmethod
    def read(
        cls, path: Path | str, pixel_size_A: float | None = None, passthrough: Path | None = None
    ) -> "CryosparcTable":
        """Read a .cs file and add the fields of its passthrough file.

        Fields that the file lacks, such as where its images are, are looked for in ``passthrough`` or else in the
        passthrough files of the same output beside it, whatever version of cryoSPARC named them.

        Args:
            path: the table, compressed or not, or the .csg file that lists the files of an output.
            pixel_size_A: pixel size of all images in Å, instead of the file's.
            passthrough: the job's passthrough file, where it is not beside the table.

        Returns:
            The table.

        Raises:
            InputError: if there is no such file, it is no cryoSPARC table, is truncated, or lists no particles.
        """
        path = Path(path)
        records, types = read_output(path, passthrough, _IMAGE_FIELDS, [*CTF_FIELDS.values()])
        if len(records) == 0:
            raise InputError(f"{path} lists no particles: its table is empty")
        return cls(path, records, pixel_size_A, types)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def _names(self) -> tuple[str, ...]:
        return self.records.dtype.names or ()

    def numbers(self, field: str, width: int = 1) -> Float[np.ndarray, "N _"] | None:
        """The values of a field in float64, ``width`` for every particle; None where there is no such field.

        Raises:
            InputError: if the values are not finite numbers, or not ``width`` for every particle.
        """
        if field not in self._names:
            return None
        values = self.records[field]
        if values.dtype.kind not in "fiub" or values.size != width * len(self):
            raise InputError(f"{self.path}: {field} does not hold {width} number{'s' * (width > 1)} for a particle")
        values = values.reshape(len(self), width).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            raise InputError(f"{self.path}: {field} of particle {bad[0] + 1} is not a finite number; correct it")
        return values

    def sources(self) -> ImageSources:
        """Stacks and sections from ``blob/path`` and ``blob/idx``, without the ``>`` that some versions prepend.

        Raises:
            InputError: if the table lacks them, a path is not text, or an index is not a whole number.
        """
        for name in ("blob/path", "blob/idx"):
            if name not in self._names:
                raise InputError(f"{self.path} {self._told_missing(name)}")
        paths, index = self.records["blob/path"], self.records["blob/idx"]
        if paths.dtype.kind not in "SU" or paths.ndim != 1 or index.dtype.kind not in "iu" or index.ndim != 1:
            raise InputError(f"{self.path}: blob/path and blob/idx are not text and whole numbers; export it anew")
        distinct, stack = np.unique(paths, return_inverse=True)
        names = [os.fsdecode(name) if isinstance(name, bytes) else str(name) for name in distinct]
        if (index.astype(np.int64) < 0).any():
            raise InputError(
                f"{self.path}: blob/idx of particle {np.argmax(index < 0) + 1} is negative; export it anew"
            )
        return ImageSources([n.lstrip(">") for n in names], stack.reshape(-1).astype(np.int64), index.astype(np.int64))

    def _told_missing(self, name: str) -> str:
        """What a table that lacks a field is, and what to give."""
        if "passthrough" in self.path.name:
            table = table_of(self.path)
            return (
                f"is a passthrough file, which has what its job did not change and no {name}; give the table that the "
                f"job wrote{f', {table.name}' if table else ''}"
            )
        groups = ", ".join(sorted({each.partition("/")[0] for each in self._names if "/" in each}))
        return f"has no {name}{f', only {groups}' * bool(groups)}; give the job's passthrough file as `passthrough`"

    def stated_pixel_sizes_A(self) -> Float[np.ndarray, "N"] | None:
        """Pixel sizes in Å from ``blob/psize_A``.

        Raises:
            InputError: if there is one that cannot be.
        """
        sizes = self.numbers("blob/psize_A")
        if sizes is None:
            return None
        return checked_pixel_sizes_A(self.path, sizes[:, 0], "blob/psize_A")

    def pixel_sizes_A(self) -> Float[np.ndarray, "N"]:
        """The pixel size that was given, or else the file's.

        Raises:
            InputError: if there is neither, or the file gives one that cannot be.
        """
        return given_or_stated_pixel_A(self, self.given_pixel_size_A, "blob/psize_A")

    def groups(self) -> Int[np.ndarray, "N"]:
        """Optics groups from ``ctf/exp_group_id``, numbered from 0; one group where there is no such field."""
        if "ctf/exp_group_id" not in self._names:
            return np.zeros(len(self), dtype=np.int64)
        return np.unique(self.records["ctf/exp_group_id"], return_inverse=True)[1].reshape(-1).astype(np.int64)

    def signs(self) -> Float[np.ndarray, "N"]:
        """Signs from ``blob/sign``: −1 where dense is dark in the file.

        Raises:
            InputError: if it is neither 1 nor −1.
        """
        signs = self.numbers("blob/sign")
        if signs is None:
            return np.ones(len(self))
        if not (np.abs(signs) == 1).all():
            raise InputError(f"{self.path}: blob/sign is neither 1 nor −1 everywhere; export the particles anew")
        return signs[:, 0]

    def stated_boxes(self) -> Float[np.ndarray, "N"] | None:
        """Boxes in pixels from ``blob/shape``; None where there is no such field."""
        shapes = self.numbers("blob/shape", 2)
        return None if shapes is None else shapes[:, 0]

    def missing_ctf_columns(self) -> list[str]:
        """Names of the fields that a CTF needs and the file does not have."""
        return [field for field in CTF_FIELDS.values() if field not in self._names]

    def ctf(self) -> CTFParameters:
        """CTF parameters of the N particles; radians become degrees.

        Raises:
            InputError: if fields are missing, or a value cannot be.
        """
        missing = self.missing_ctf_columns()
        if missing:
            raise InputError(
                f"{self.path} has no {', '.join(missing)}; give the job's passthrough file as `passthrough`, or "
                "`ctf=False` for images without CTF"
            )
        columns = {}
        for name, field in CTF_FIELDS.items():
            values = self.numbers(field)
            assert values is not None
            columns[name] = np.rad2deg(values[:, 0]) if field.endswith("_rad") else values[:, 0]
        return ctf_of_columns(self.path, columns, CTF_FIELDS)

    def aberrations(self) -> Aberrations | None:
        """Beam tilt, trefoil, tetrafoil and magnification, of each optics group; None where there are none.

        Raises:
            InputError: if a value is not a finite number.
        """
        named = {name: self.numbers(name, width) for name, width in CRYOSPARC_FIELDS.items()}
        fields = {name: values for name, values in named.items() if values is not None}
        voltage_kV = self.numbers(CTF_FIELDS["voltage_kV"])
        return None if voltage_kV is None else cryosparc_aberrations(fields, voltage_kV[:, 0], self.groups())

    def doubtful_values(self) -> list[str]:
        """One sentence for each field of the CTF that looks like one in another unit."""
        return [] if self.missing_ctf_columns() else doubtful_values(self.ctf(), CTF_FIELDS)

    def premultiplied(self) -> Bool[np.ndarray, "N"]:
        """False for every image: cryoSPARC does not export images multiplied by their CTF."""
        return np.zeros(len(self), dtype=bool)

    def phase_flipped(self) -> Bool[np.ndarray, "N"]:
        """False for every image: cryoSPARC neither flips phases nor notes it."""
        return np.zeros(len(self), dtype=bool)

    def poses(self) -> tuple[Float[Tensor, "N 3 3"], Float[Tensor, "N 2"]] | None:
        """Rotations, and displacements (x, y) of the content in Å; None where the file has no 3-D poses.

        A pose is a rotation vector, of the rotation that RELION's angles mean here; content sits at minus the shift,
        counted in pixels of ``alignments3D/psize_A``.
        """
        vectors, shifts = self.numbers(POSE, 3), self.numbers(SHIFT, 2)
        if vectors is None:
            return None
        if shifts is None:
            shifts_A = np.zeros((len(self), 2))
        else:
            pixel = self.numbers(SHIFT_PIXEL)
            pixel = self.pixel_sizes_A()[:, None] if pixel is None else pixel * given_over_stated_pixel(self)[:, None]
            shifts_A = shifts * pixel
        return torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix()), -torch.from_numpy(shifts_A)

    def halves(self) -> Float[np.ndarray, "N"] | None:
        """Half-sets 1 and 2 from ``alignments3D/split``; None where all particles have one value, as before a split."""
        values = self.numbers(SPLIT)
        return None if values is None else split_or_none(values[:, 0] + 1)

    def ignored_columns(self) -> list[str]:
        """Fields that change how an image is formed and that orbitrec does not model, where they are not neutral."""
        return [
            field
            for field, neutral in _UNMODELLED.items()
            if field in self._names and bool(np.any(self.records[field] != neutral))
        ]

    def write_posed(
        self,
        path: Path | str,
        rotations: Float[Tensor, "N 3 3"],
        shifts_A: Float[Tensor, "N 2"],
        stacks: Sequence[Path] | None,
        halves: Int[Tensor, "N"] | None = None,
        rows: Int[Tensor, "N"] | None = None,
        statistics: ParticleStatistics | None = None,
    ) -> None:
        """Write the table with these poses, and beside it the .csg file that *Import Result Group* takes.

        Paths stay relative to the project's folder, as cryoSPARC has them; those that begin with ``>`` are relative to
        the folder of the file, and follow it.

        Args:
            path: the file to write.
            rotations: rotation matrix of every particle, in RELION's convention.
            shifts_A: displacement (x, y) of every particle's content in Å.
            stacks: the stack file found for each of ``sources().names``; None takes them to be beside the table.
            halves: half-set of every particle, 1 or 2; None keeps those of the file.
            rows: the rows that are written, ascending, as often as named; the poses are theirs. None writes all.
            statistics: what else is known of every particle; None leaves the fields of an alignment as they are.
        """
        at = np.arange(len(self)) if rows is None else rows.numpy()
        out = self._with_alignments()[at]
        pixel = self.pixel_sizes_A()[at]
        out[POSE] = Rotation.from_matrix(rotations.detach().cpu().double().numpy()).as_rotvec()
        out[SHIFT] = -shifts_A.detach().cpu().double().numpy() / pixel[:, None]
        out[SHIFT_PIXEL] = pixel / given_over_stated_pixel(self)[at]  # that of the images, as the file states it
        if halves is not None:
            out[SPLIT] = halves.cpu().numpy() - 1
        for field, values in ({} if statistics is None else _statistics_fields(statistics)).items():
            if field in (out.dtype.names or ()):  # some versions of cryoSPARC have fewer
                out[field] = values.numpy()
        self._write(Path(path), out, stacks)

    def write_rows(self, path: Path | str, rows: Int[Tensor, "K"]) -> None:
        """Write some of the particles, joined with the fields of their passthrough file; a .csg file as with poses."""
        self._write(Path(path), self.records[rows.numpy()])

    def _write(self, path: Path, out: np.ndarray, stacks: Sequence[Path] | None = None) -> None:
        out = self._with_paths_from(path, out, stacks)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, out, allow_pickle=False)
        ResultGroup.write(path.with_suffix(".csg"), path, out, self.types)

    def _with_paths_from(self, path: Path, out: np.ndarray, stacks: Sequence[Path] | None) -> np.ndarray:
        """The records with paths that are right in another folder, where they begin with ``>``."""
        folder = path.parent.resolve()
        if "blob/path" not in self._names or folder == self.path.parent.resolve():
            return out
        moved: dict[object, object] = {}
        for at, name in enumerate(np.unique(self.records["blob/path"])):
            text = os.fsdecode(name) if isinstance(name, bytes) else str(name)
            if text.startswith(">"):
                stack = stacks[at] if stacks else (self.path.parent / text.lstrip(">")).resolve()
                relative = ">" + Path(os.path.relpath(stack, folder)).as_posix()
                moved[name] = os.fsencode(relative) if isinstance(name, bytes) else relative
        if not moved:
            return out
        paths = np.array([moved.get(name, name) for name in out["blob/path"]])
        kinds = [(*each[:1], paths.dtype) if each[0] == "blob/path" else each for each in described(out.dtype)]
        renamed = np.zeros(len(out), dtype=kinds)
        for name in renamed.dtype.names or ():
            renamed[name] = paths if name == "blob/path" else out[name]
        return renamed

    def identities(self) -> Mapping[str, Sequence[Hashable]]:
        """The ``uid``, which a particle keeps through all jobs."""
        uid = self.records["uid"] if "uid" in self._names else None
        return {} if uid is None or uid.dtype.kind not in "iu" else {"uid": uid.tolist()}

    def _with_alignments(self) -> np.ndarray:
        """A copy of the records that has every field of an alignment."""
        fields = {f"alignments3D/{name}": kind for name, kind in _ALIGNMENT_FIELDS.items()}
        if POSE in self._names:  # as its own version of cryoSPARC wrote it
            fields = {name: fields[name] for name in (SHIFT, SHIFT_PIXEL, SPLIT)}
        added = [(name, kind) for name, kind in fields.items() if name not in self._names]
        out = np.zeros(len(self), dtype=[*described(self.records.dtype), *added])
        for name in self._names:
            out[name] = self.records[name]
        for name in ("alpha", "class_posterior", "class_ess"):
            if (f"alignments3D/{name}", "<f4") in added:
                out[f"alignments3D/{name}"] = 1
        if (SPLIT, "<u4") in added:
            out[SPLIT] = np.arange(len(self)) % 2
        return out


def _statistics_fields(statistics: ParticleStatistics) -> dict[str, Float[Tensor, "N"]]:
    """cryoSPARC's fields of what is known of particles beside their poses.

    In its files ``error = resid_pow = image_pow + slice_pow − cross_cor``, minus the log-likelihood at the pose,
    ``error_min`` is that at the best scale, and ``alpha = cross_cor / (2 slice_pow)`` is this scale. The power of the
    image, which no pose changes, is left out here: it is zero, and errors are over that of noise alone.
    """
    error = statistics.slice_power - statistics.cross_correlation
    fields = {
        "error": error,
        "error_min": -statistics.scale * statistics.cross_correlation / 2,
        "resid_pow": error,
        "image_pow": torch.zeros_like(error),
        "slice_pow": statistics.slice_power,
        "cross_cor": statistics.cross_correlation,
        "alpha": statistics.scale,
        "alpha_min": statistics.scale,
        "class_posterior": statistics.inlier_probability,
    }
    return {f"alignments3D/{name}": values for name, values in fields.items()}
