"""CryoSPARC's files: tables of particles, the files of a job that belong together, compressed streams."""
