import pickle, glob, numpy as np
from bdbench_datamodel import evidence
from sklearn.metrics import roc_auc_score
import collections
A=collections.defaultdict(list)
for f in sorted(glob.glob("/work/tmp/tr/sets4/*.pkl")):
    g=pickle.load(open(f,"rb")); j=evidence.judge(g["classes"],g["effects"],g["transfers"],g["known"],g["otherwise"],g["images"]); P=g["roles"]==1
    n=f.split("/")[-1][:-4]; fam="noise" if "noise" in n else "lay" if n.startswith("lay") else n.split("-")[0][:6]
    auc=roc_auc_score(P,j.scores) if P.any() else np.nan
    A[fam,"att" if P.any() else "clean"].append((j.p_value<.05,auc,j.flagged[P].mean() if P.any() else np.nan,j.flagged[~P].mean()))
    if P.any() and (auc<.99 or j.p_value>.05) or not P.any() and j.p_value<.1: print(f"{n[:60]:60s} p {j.p_value:.4f} auc {auc:.3f} tpr {j.flagged[P].mean():.2f} fpr {j.flagged[~P].mean():.3f}")
for k,v in sorted(A.items()): v=np.array(v,float); print(k,len(v),"alarms",int(v[:,0].sum()),"auc %.3f tpr %.3f fpr %.4f"%tuple(np.nanmean(v[:,1:],0)))
