# Sourced. Settings for other programs: only indexes, certificates and caches count when an environment is made.
unset PYTHONPATH PYTHONHOME
for name in $(env | sed -n 's/^\(PIP_[A-Za-z0-9_]*\)=.*/\1/p'); do
    case $name in
        PIP_INDEX_URL|PIP_EXTRA_INDEX_URL|PIP_NO_INDEX|PIP_FIND_LINKS|PIP_TRUSTED_HOST|PIP_KEYRING_PROVIDER) ;;
        PIP_PROXY|PIP_CERT|PIP_CLIENT_CERT|PIP_CACHE_DIR|PIP_NO_CACHE_DIR|PIP_CONFIG_FILE) ;;
        PIP_TIMEOUT|PIP_DEFAULT_TIMEOUT|PIP_RETRIES|PIP_RESUME_RETRIES|PIP_USE_FEATURE|PIP_USE_DEPRECATED) ;;
        *) unset "$name" ;;
    esac
done
export PIP_USER=0 PIP_CONSTRAINT=/dev/null
