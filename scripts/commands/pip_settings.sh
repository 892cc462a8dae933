# Sourced. Settings for other programs: only indexes, certificates and caches count when an environment is made.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_DRY_RUN
export PIP_USER=0 PIP_CONSTRAINT=/dev/null
